// Parallel coordinates whose axes lie across the page, one below the other, and can be brushed.

const ROW = 44; // pixels an axis
const MOST_LINES = 1200; // candidates drawn beside front and pick, evenly over the search
const ABSENT = 8; // pixels from the edge, where a line passes an axis that does not apply

function makeParallel(place, data, state) {
  const lined = data.items.map((item, index) => ({ item, index })).filter(({ item }) => item.places);
  const plain = lined.filter(({ item, index }) => !item.front && index !== data.pick);
  const step = Math.max(1, plain.length / MOST_LINES);
  const some = Array.from({ length: Math.min(plain.length, MOST_LINES) }, (_, i) => plain[Math.floor(i * step)]);
  const above = lined.filter(({ item, index }) => item.front || index === data.pick);
  above.sort((a, b) => (a.index === data.pick) - (b.index === data.pick));
  const brushes = new Map(); // axis: [low, high], as shares of its length
  let paths = new Map();

  function draw() {
    const wide = place.clientWidth || 320;
    const [left, right] = [24, wide - 12];
    const x = (share) => (share === null ? ABSENT : left + share * (right - left));
    const y = (axis) => 24 + axis * ROW;
    const high = y(data.axes.length - 1) + 26;
    const root = svg('svg', { viewBox: `0 0 ${wide} ${high}`, height: high, role: 'group', 'aria-label': 'Parallel coordinates' });
    const lines = svg('g', {}, root);
    paths = new Map();
    for (const { item, index } of [...some, ...above]) {
      const d = item.places.map((share, axis) => `${axis ? 'L' : 'M'}${x(share).toFixed(1)},${y(axis)}`).join('');
      const kind = index === data.pick ? 'pick' : item.front ? 'front' : '';
      paths.set(index, svg('path', { d, class: `line ${kind}`, 'data-index': index }, lines));
    }
    svg('path', { class: 'line shown', id: 'shown-line' }, lines);
    data.axes.forEach((axis, i) => drawAxis(root, axis, i, x, y(i)));
    place.replaceChildren(root);
    shape = (item) => item.places.map((share, axis) => `${axis ? 'L' : 'M'}${x(share).toFixed(1)},${y(axis)}`).join('');
    refresh();
  }
  let shape = () => '';

  function drawAxis(root, axis, i, x, y) {
    svg('line', { x1: x(0), x2: x(1), y1: y, y2: y, class: 'axis' }, root);
    svg('text', { x: x(0), y: y - 7 }, root, axis.label + (axis.objective ? ' (objective)' : ''));
    const marks = axis.names.length ? axis.names.map((name, n) => [axis.names.length > 1 ? n / (axis.names.length - 1) : 0, name]) : [[0, textAt(axis, 0)], [1, textAt(axis, 1)]];
    const room = (x(1) - x(0)) / marks.length;
    marks.forEach(([share, text], n) => {
      svg('line', { x1: x(share), x2: x(share), y1: y - 3, y2: y + 3, class: 'axis' }, root);
      if (n && n < marks.length - 1 && text.length * 7 > room) return;
      svg('text', { x: x(share), y: y + 14, class: 'soft', 'text-anchor': share === 0 ? 'start' : share === 1 ? 'end' : 'middle' }, root, text);
    });
    const brush = svg('rect', { class: 'brush', y: y - 5, height: 10, x: 0, width: 0, 'data-brush': i }, root);
    const band = svg('rect', { class: 'band', x: x(0) - 8, width: x(1) - x(0) + 16, y: y - 14, height: 28, tabindex: 0, role: 'slider', 'data-axis': i, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-label': axis.label }, root);
    const share = (event) => {
      const box = root.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left - x(0)) / (x(1) - x(0)), 0), 1);
    };
    let from = null;
    band.addEventListener('pointerdown', (event) => {
      from = share(event);
      band.setPointerCapture(event.pointerId);
    });
    band.addEventListener('pointermove', (event) => {
      if (from === null) return;
      const to = share(event);
      if (Math.abs(to - from) * (x(1) - x(0)) < 4) return;
      put(i, [Math.min(from, to), Math.max(from, to)]);
    });
    band.addEventListener('pointerup', (event) => {
      if (from !== null && Math.abs(share(event) - from) * (x(1) - x(0)) < 4) put(i, null);
      from = null;
    });
    band.addEventListener('pointercancel', () => { from = null; });
    band.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 0.05, ArrowLeft: -0.05 }[event.key];
      const [low, high] = brushes.get(i) || [0, 1];
      if (event.key === 'Escape') put(i, null);
      else if (by && event.shiftKey) put(i, [Math.min(Math.max(low + by, 0), high), high]);
      else if (by) put(i, [low, Math.min(Math.max(high + by, low), 1)]);
      else return;
      event.preventDefault();
    });
    brush.place = (ends) => {
      brush.setAttribute('x', ends ? x(ends[0]) : 0);
      brush.setAttribute('width', ends ? Math.max(x(ends[1]) - x(ends[0]), 2) : 0);
      const words = ends ? `${textAt(axis, ends[0])} to ${textAt(axis, ends[1])}` : 'all';
      band.setAttribute('aria-valuetext', words);
      band.setAttribute('aria-valuenow', Math.round(100 * (ends ? ends[1] : 1)));
    };
  }

  // What a reader calls this place of an axis.
  function textAt(axis, share) {
    if (axis.names.length) return axis.names[Math.round(share * (axis.names.length - 1))];
    const [low, high] = axis.ends;
    const value = axis.log ? low * (high / low) ** share : low + share * (high - low);
    return axis.percent ? `${(100 * value).toFixed(1)} %` : number(value);
  }

  function put(axis, ends) {
    if (ends === null || (ends[0] <= 0 && ends[1] >= 1)) brushes.delete(axis);
    else brushes.set(axis, ends);
    const slack = 1e-4; // places are rounded to four decimals
    const inside = ({ item }) => [...brushes].every(([i, [low, high]]) => item.places[i] !== null && item.places[i] >= low - slack && item.places[i] <= high + slack);
    state.set({ kept: brushes.size ? new Set(lined.filter(inside).map(({ index }) => index)) : null });
  }

  function clear() {
    brushes.clear();
    state.set({ kept: null });
  }

  function refresh() {
    for (const [index, path] of paths) path.classList.toggle('faded', state.kept !== null && !state.kept.has(index));
    const shown = data.items[state.shown()];
    place.querySelector('#shown-line').setAttribute('d', shown.places && state.shown() !== data.pick ? shape(shown) : '');
    for (const brush of place.querySelectorAll('.brush')) brush.place(brushes.get(Number(brush.dataset.brush)));
    const kept = state.kept === null ? lined.length : state.kept.size;
    const front = lined.filter(({ item, index }) => item.front && (state.kept === null || state.kept.has(index))).length;
    const drawn = some.length < plain.length ? `; ${some.length} candidates are drawn, evenly over the search` : '';
    document.getElementById('brushed').textContent = `${kept} of ${lined.length} recipes, ${front} of them on the front${drawn}.`;
    document.getElementById('unbrush').disabled = state.kept === null;
  }

  return { draw, refresh, clear };
}
