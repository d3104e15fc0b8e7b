// SVG elements, scales and numbers: what every chart on the page is made of.

const SVG = 'http://www.w3.org/2000/svg';
const MARKS = ['square', 'diamond', 'triangle', 'down', 'cross', 'plus'];
const TINTS = ['#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#f0e442', '#ffffff'];

function svg(name, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function html(name, attributes = {}, parent = null, text = null) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// From values to pixels. Fractions are shown in per cent; what lies outside is put at the edge.
function scaleOf(quantity, from, to) {
  const bend = quantity.log ? Math.log10 : (value) => value;
  let low = bend(quantity.low);
  let high = bend(quantity.high);
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  low -= margin;
  high += margin;
  const place = (value) => {
    const share = Math.min(Math.max((bend(value) - low) / (high - low), 0), 1);
    return from + share * (to - from);
  };
  return { place, low, high, log: quantity.log };
}

// Round numbers inside a scale, about as many as asked for.
function ticksOf(scale, count) {
  if (scale.log) {
    const all = [];
    for (let power = Math.floor(scale.low); power <= scale.high; power++) {
      for (const lead of scale.high - scale.low < 2.5 ? [1, 2, 5] : [1]) all.push(lead * 10 ** power);
    }
    const inside = all.filter((x) => Math.log10(x) >= scale.low && Math.log10(x) <= scale.high);
    if (inside.length > 1) return inside;
    const ends = [0.1, 0.5, 0.9].map((share) => scale.low + share * (scale.high - scale.low));
    return ends.map((end) => Number((10 ** end).toPrecision(2)));
  }
  const rough = (scale.high - scale.low) / Math.max(count, 1);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((lead) => lead * unit).find((size) => size >= rough);
  const ticks = [];
  for (let i = Math.ceil(scale.low / step); i * step <= scale.high; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function number(value, digits = 3) {
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e7) return Math.round(value).toLocaleString('en-US');
  if (size >= 1e7 || (size > 0 && size < 1e-3)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
}

function valueText(quantity, value, digits = 4) {
  if (value === null || value === undefined) return '–';
  if (quantity.name === 'bytes') return `${number(value / 1e6, digits)} MB`;
  if (quantity.percent) return `${(100 * value).toFixed(2)} %`;
  return number(value, digits);
}

function tickText(quantity, value) {
  if (quantity.name === 'bytes') return `${number(value / 1e6)} MB`;
  return quantity.percent ? `${number(100 * value)} %` : number(value);
}

// A mark of its own for every kind of point, so that none is told by colour alone.
function markPath(kind, x, y, r) {
  const corners = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    diamond: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
    triangle: [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]],
    down: [[0, 1.3], [1.2, -0.9], [-1.2, -0.9]],
    cross: [[-1.2, -0.6], [-0.6, -1.2], [0, -0.6], [0.6, -1.2], [1.2, -0.6], [0.6, 0],
      [1.2, 0.6], [0.6, 1.2], [0, 0.6], [-0.6, 1.2], [-1.2, 0.6], [-0.6, 0]],
    plus: [[-0.5, -1.3], [0.5, -1.3], [0.5, -0.5], [1.3, -0.5], [1.3, 0.5], [0.5, 0.5],
      [0.5, 1.3], [-0.5, 1.3], [-0.5, 0.5], [-1.3, 0.5], [-1.3, -0.5], [-0.5, -0.5]],
    star: Array.from({ length: 10 }, (_, i) => {
      const reach = i % 2 ? 0.7 : 1.7;
      return [reach * Math.sin((i * Math.PI) / 5), -reach * Math.cos((i * Math.PI) / 5)];
    }),
  }[kind];
  return `M${corners.map(([dx, dy]) => `${(x + r * dx).toFixed(1)},${(y + r * dy).toFixed(1)}`).join('L')}Z`;
}
