// All recipes by two of their quantities.

function makeScatter(place, data, state) {
  const marks = new Map();
  const named = data.items.filter((item) => item.name);
  named.forEach((item, i) => marks.set(item, { kind: MARKS[i % MARKS.length], tint: TINTS[i % TINTS.length] }));
  let spots = [];

  function draw() {
    const focused = document.activeElement && document.activeElement.id === 'plot';
    const wide = place.clientWidth || 320;
    const high = Math.round(Math.min(Math.max(wide * 0.68, 280), 460));
    const [qx, qy] = [data.quantities[state.x], data.quantities[state.y]];
    const root = svg('svg', { viewBox: `0 0 ${wide} ${high}`, height: high, role: 'group', 'aria-label': `${qy.name} against ${qx.name}` });
    const left = 62;
    const [right, top, bottom] = [wide - 12, 22, high - 42];
    const sx = scaleOf(qx, left, right);
    const sy = scaleOf(qy, bottom, top);
    for (const tick of ticksOf(sx, wide / 110)) {
      const x = sx.place(tick);
      svg('line', { x1: x, x2: x, y1: top, y2: bottom, class: 'grid' }, root);
      svg('text', { x, y: bottom + 16, 'text-anchor': 'middle' }, root, tickText(qx, tick));
    }
    for (const tick of ticksOf(sy, high / 70)) {
      const y = sy.place(tick);
      svg('line', { x1: left, x2: right, y1: y, y2: y, class: 'grid' }, root);
      svg('text', { x: left - 6, y: y + 4, 'text-anchor': 'end' }, root, tickText(qy, tick));
    }
    svg('line', { x1: left, x2: right, y1: bottom, y2: bottom, class: 'axis' }, root);
    svg('line', { x1: left, x2: left, y1: top, y2: bottom, class: 'axis' }, root);
    svg('text', { x: right, y: high - 6, 'text-anchor': 'end', class: 'title-x' }, root, titleOf(qx, '→'));
    svg('text', { x: 4, y: 13, class: 'title-y' }, root, titleOf(qy, '↑'));

    const plot = svg('g', { id: 'plot', tabindex: 0, role: 'application', 'aria-roledescription': 'scatter plot', 'aria-label': 'Recipes; arrows go along the front' }, root);
    svg('rect', { x: left, y: top, width: right - left, height: bottom - top, fill: 'transparent' }, plot);
    spots = [];
    let outside = 0;
    data.items.forEach((item, index) => {
      const [vx, vy] = [item.values[state.x], item.values[state.y]];
      if (vx === null || vx === undefined || vy === null || vy === undefined) return;
      outside += beyond(qx, vx) || beyond(qy, vy) ? 1 : 0;
      spots.push({ index, item, x: sx.place(vx), y: sy.place(vy) });
    });
    stairs(plot);
    const order = (spot) => (spot.index === data.pick ? 3 : spot.item.name ? 2 : spot.item.front ? 1 : 0);
    for (const spot of [...spots].sort((a, b) => order(a) - order(b))) {
      spot.mark = drawMark(plot, spot);
      spot.mark.dataset.index = spot.index;
    }
    svg('circle', { class: 'ring', r: 9, cx: -99, cy: -99 }, plot);
    place.replaceChildren(root);
    document.getElementById('scatter-note').textContent = outside
      ? `${outside} ${outside === 1 ? 'recipe lies' : 'recipes lie'} beyond the axes and ${outside === 1 ? 'is' : 'are'} drawn at the edge.`
      : '';
    listen(root, plot);
    if (focused) plot.focus();
    refresh();
  }

  function titleOf(quantity, arrow) {
    const unit = quantity.unit && !quantity.unit.startsWith(quantity.name) ? ` (${quantity.percent ? '% of ' : ''}${quantity.unit})` : '';
    return `${quantity.name}${unit}${quantity.log ? ', log' : ''} ${arrow}`;
  }

  function beyond(quantity, value) {
    const slack = 1e-9 * Math.abs(quantity.high);
    return value < quantity.low - slack || value > quantity.high + slack;
  }

  // The front as a staircase, only where both axes are all the objectives there are.
  function stairs(plot) {
    const [qx, qy] = [data.quantities[state.x], data.quantities[state.y]];
    if (!qx.objective || !qy.objective || data.quantities.filter((q) => q.objective).length !== 2) return;
    const front = spots.filter((spot) => spot.item.front).sort((a, b) => a.x - b.x || b.y - a.y);
    const path = front.map((spot, i) => {
      if (!i) return `M${spot.x},${spot.y}`;
      return qx.maximise ? `V${spot.y}H${spot.x}` : `H${spot.x}V${spot.y}`;
    });
    if (front.length > 1) svg('path', { d: path.join(''), class: 'stairs' }, plot);
  }

  function drawMark(plot, spot) {
    if (spot.index === data.pick) return svg('path', { d: markPath('star', spot.x, spot.y, 5.5), class: 'pick' }, plot);
    const mark = marks.get(spot.item);
    if (mark) return svg('path', { d: markPath(mark.kind, spot.x, spot.y, 5), fill: mark.tint, class: 'baseline' }, plot);
    const front = spot.item.front;
    return svg('circle', { cx: spot.x.toFixed(1), cy: spot.y.toFixed(1), r: front ? 4.5 : 3, class: front ? 'front' : 'candidate' }, plot);
  }

  function listen(root, plot) {
    const nearest = (event) => {
      const box = root.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let best = null;
      let least = 24;
      for (const spot of spots) {
        // What is drawn on top is preferred where points lie on each other.
        const near = Math.hypot(spot.x - x, spot.y - y) - (spot.index === data.pick || spot.item.name ? 2 : spot.item.front ? 1 : 0);
        if (near < least) [best, least] = [spot, near];
      }
      return best && best.index;
    };
    plot.addEventListener('pointermove', (event) => {
      if (event.pointerType !== 'touch') state.set({ hovered: nearest(event) });
    });
    plot.addEventListener('pointerleave', () => state.set({ hovered: null }));
    plot.addEventListener('click', (event) => {
      const found = nearest(event);
      if (found !== null) state.set({ pinned: found, hovered: null });
    });
    plot.addEventListener('keydown', (event) => {
      const front = spots.filter((spot) => spot.item.front).sort((a, b) => a.x - b.x || a.y - b.y).map((spot) => spot.index);
      const here = front.indexOf(state.shown());
      const to = { ArrowRight: here + 1, ArrowUp: here + 1, ArrowLeft: here - 1, ArrowDown: here - 1, Home: 0, End: front.length - 1 }[event.key];
      if (to !== undefined) state.set({ hovered: front[Math.min(Math.max(to, 0), front.length - 1)] });
      else if (event.key === 'Enter' || event.key === ' ') state.set({ pinned: state.shown(), hovered: null });
      else if (event.key === 'Escape') state.set({ pinned: null, hovered: null });
      else return;
      event.preventDefault();
    });
  }

  function refresh() {
    const shown = spots.find((spot) => spot.index === state.shown());
    const ring = place.querySelector('.ring');
    ring.setAttribute('cx', shown ? shown.x : -99);
    ring.setAttribute('cy', shown ? shown.y : -99);
    for (const spot of spots) spot.mark.classList.toggle('faded', state.kept !== null && !state.kept.has(spot.index));
  }

  function legend(list) {
    const entry = (text, make) => {
      const line = html('li', {}, list);
      make(svg('svg', { width: 16, height: 16, viewBox: '0 0 16 16' }, line));
      line.append(text);
    };
    const plain = data.items.filter((item, i) => !item.front && !item.name && i !== data.pick).length;
    const front = data.items.filter((item) => item.front).length;
    entry(`candidates (${plain})`, (box) => svg('circle', { cx: 8, cy: 8, r: 3, class: 'candidate' }, box));
    entry(`front (${front})`, (box) => svg('circle', { cx: 8, cy: 8, r: 4.5, class: 'front' }, box));
    entry('pick', (box) => svg('path', { d: markPath('star', 8, 8, 4.4), class: 'pick' }, box));
    for (const [item, mark] of marks) {
      entry(item.name, (box) => svg('path', { d: markPath(mark.kind, 8, 8, 4.5), fill: mark.tint, class: 'baseline' }, box));
    }
  }

  return { draw, refresh, legend };
}
