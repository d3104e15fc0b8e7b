// What is shown and what is kept, told to every chart.

const data = JSON.parse(document.getElementById('run-data').textContent);
const cells = data.items.flatMap((item) => (item.grid || []).flat()).filter((value) => value !== null);
data.heat = cells.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [1000, 0]);

const parts = [];
const state = {
  x: 0, y: Math.min(1, data.quantities.length - 1), pinned: null, hovered: null, kept: null,
  shown() { return this.hovered ?? this.pinned ?? data.pick; },
  set(change) {
    const changed = Object.entries(change).some(([key, value]) => this[key] !== value);
    if (!changed) return;
    Object.assign(this, change);
    for (const part of parts) part.refresh(change);
  },
};

for (const element of document.querySelectorAll('.live')) element.hidden = false;
for (const element of document.querySelectorAll('details.print')) element.open = false;

function axisChoices() {
  const varied = data.quantities.map((quantity, i) => ({ quantity, i })).filter(({ quantity, i }) => quantity.objective || quantity.high > quantity.low);
  const sparsity = varied.find(({ quantity }) => quantity.name === 'sparsity' && quantity.objective);
  if (sparsity) state.x = sparsity.i;
  const other = varied.find(({ i }) => i !== state.x);
  state.y = other ? other.i : state.x;
  document.getElementById('axis-choice').hidden = varied.length < 3;
  for (const [id, key] of [['choose-x', 'x'], ['choose-y', 'y']]) {
    const select = document.getElementById(id);
    for (const { quantity, i } of varied) html('option', { value: i }, select, quantity.name + (quantity.objective ? '' : ' (recorded)'));
    select.value = state[key];
    select.addEventListener('change', () => {
      state[key] = Number(select.value);
      scatter.draw();
    });
  }
}

const scatter = makeScatter(document.getElementById('scatter'), data, state);
axisChoices();
scatter.legend(document.getElementById('scatter-legend'));
scatter.draw();
parts.push(scatter);

const lines = document.getElementById('lines');
if (lines) {
  const parallel = makeParallel(lines, data, state);
  parallel.draw();
  document.getElementById('unbrush').addEventListener('click', parallel.clear);
  parts.push(parallel);
}

const card = document.getElementById('recipe');
const unpin = () => {
  state.set({ pinned: null, hovered: null });
  document.getElementById('plot').focus();
};
parts.push({ refresh: () => showRecipe(card, data, state.shown(), state.pinned === state.shown(), unpin) });

const choose = document.getElementById('choose-recipe');
data.items.forEach((item, index) => {
  if (!item.grid || (!item.front && !item.name && index !== data.pick)) return;
  const first = data.quantities.filter((q) => q.objective).map((q) => `${q.name} ${valueText(q, item.values[data.quantities.indexOf(q)], 3)}`);
  html('option', { value: index }, choose, `${standingOf(data, index)}: ${first.join(', ')}`);
});
const other = html('option', { value: -1, hidden: '' }, choose, 'a candidate, kept above');
choose.addEventListener('change', () => state.set({ pinned: Number(choose.value), hovered: null }));
const heat = document.getElementById('heat');
parts.push({
  refresh(change) {
    if (!('pinned' in change)) return;
    const index = state.pinned ?? data.pick;
    choose.value = index;
    if (choose.selectedIndex < 0) other.selected = true;
    showHeat(heat, data, index);
  },
});
for (const part of parts) part.refresh({ pinned: null });

let width = window.innerWidth;
window.addEventListener('resize', () => {
  if (window.innerWidth === width) return; // a phone's address bar comes and goes
  width = window.innerWidth;
  for (const part of parts) if (part.draw) part.draw();
});
