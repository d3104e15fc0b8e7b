// The card of one recipe, and its heat map.

// Bars of thousandths over blocks, with their ends in words.
function blockBars(parent, title, thousandths, kind) {
  html('h4', {}, parent, title);
  const count = thousandths.length;
  const wide = 300;
  const high = 54;
  const step = wide / count;
  const spoken = thousandths.map((x, block) => `block ${block} ${(x / 10).toFixed(1)} %`).join(', ');
  const root = svg('svg', { viewBox: `0 0 ${wide} ${high + 16}`, role: 'img', 'aria-label': `${title}: ${spoken}` }, parent);
  svg('line', { x1: 0, x2: wide, y1: high, y2: high, class: 'axis' }, root);
  thousandths.forEach((value, block) => {
    const tall = Math.max((value / 1000) * high, 0.5);
    const bar = svg('rect', {
      x: (block * step + step * 0.1).toFixed(2), width: (step * 0.8).toFixed(2),
      y: (high - tall).toFixed(2), height: tall.toFixed(2), class: `bar ${kind}`,
    }, root);
    svg('title', {}, bar, `block ${block}: ${(value / 10).toFixed(1)} %`);
  });
  const least = (Math.min(...thousandths) / 10).toFixed(1);
  const most = (Math.max(...thousandths) / 10).toFixed(1);
  svg('text', { x: 0, y: high + 13, class: 'soft' }, root, 'block 0');
  svg('text', { x: wide / 2, y: high + 13, 'text-anchor': 'middle' }, root, least === most ? `${most} %` : `${least} to ${most} %`);
  svg('text', { x: wide, y: high + 13, 'text-anchor': 'end', class: 'soft' }, root, String(count - 1));
}

function standingOf(data, index) {
  const item = data.items[index];
  const parts = [];
  if (item.name) parts.push(`baseline ${item.name}`);
  if (index === data.pick) parts.push('the pick');
  if (item.front) parts.push('on the front');
  return parts.join(', ') || 'a candidate, not on the front';
}

function showRecipe(card, data, index, pinned, unpin) {
  const item = data.items[index];
  card.replaceChildren();
  html('h3', {}, card, item.key || item.name);
  html('p', { class: 'standing' }, card, standingOf(data, index) + (pinned ? ', kept' : ''));
  const table = html('table', {}, card);
  data.quantities.forEach((quantity, i) => {
    const row = html('tr', {}, table);
    html('th', { scope: 'row' }, row, quantity.name + (quantity.objective ? '' : ' (recorded)'));
    html('td', {}, row, valueText(quantity, item.values[i]));
  });
  for (const [name, text] of item.settings) {
    const row = html('tr', {}, table);
    html('th', { scope: 'row' }, row, name);
    html('td', {}, row, text);
  }
  if (item.blocks) blockBars(card, 'Sparsity by block', item.blocks, '');
  if (item.lambdas) blockBars(card, 'λ by block, mean over its weights', item.lambdas, 'mixed');
  if (item.command) {
    html('h4', {}, card, 'To take it away');
    const pick = /^[\w:@.-]+$/.test(item.command) ? item.command : `'${item.command}'`;
    const front = `optishear front ${data.run} --pick ${pick}`;
    html('code', { id: 'command' }, card, front);
    copyButton(card, 'Copy this command', front);
    copyButton(card, 'Copy the export command', `optishear export ${data.run} --pick ${pick} --to recipe/`);
  } else if (index === data.pick) {
    html('h4', {}, card, 'To take it away');
    const whole = `optishear export ${data.run} --to recipe/`;
    html('code', { id: 'command' }, card, whole);
    copyButton(card, 'Copy the export command', whole);
  } else {
    const why = item.front ? 'It is so close to another recipe that --pick cannot name it' : 'Only recipes of the front can be exported by --pick';
    html('p', { class: 'hint' }, card, `${why}; this one stands in journal.jsonl under its key.`);
    if (item.key) copyButton(card, 'Copy its key', item.key);
  }
  if (pinned) {
    const button = html('button', { type: 'button', id: 'unpin' }, card, 'Back to the pick');
    button.addEventListener('click', unpin);
  }
}

function copyButton(parent, label, text) {
  const button = html('button', { type: 'button', 'data-copies': text }, parent, label);
  button.addEventListener('click', async () => {
    button.textContent = (await copied(text)) ? 'Copied' : 'Select and copy it by hand';
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// Where a page opened from a file has no clipboard, the old way.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = html('textarea', { 'aria-hidden': 'true' }, document.body);
    area.value = text;
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

// Roles down, blocks across. One colour scale for all recipes, so that they can be compared.
function showHeat(place, data, index) {
  const item = data.items[index];
  place.replaceChildren();
  if (!item.grid) {
    html('p', { class: 'hint' }, place, 'The layers of this recipe are not kept on this page; it stands in journal.jsonl under its key.');
    return;
  }
  heatTable(place, data, item.grid, `Sparsity in %, ${item.key}: ${standingOf(data, index)}`, data.heat);
  if (item.lambda_grid) heatTable(place, data, item.lambda_grid, 'λ in %; 100 is plain reconstruction', [0, 1000]);
}

function heatTable(place, data, grid, title, [low, high]) {
  html('p', { class: 'caption' }, place, title);
  const table = html('table', { 'aria-label': title, class: grid[0].length > 12 ? 'heat many' : 'heat' }, place);
  const head = html('tr', {}, html('thead', {}, table));
  html('th', { scope: 'col' }, head, 'block');
  grid[0].forEach((_, block) => html('th', { scope: 'col' }, head, String(block)));
  const body = html('tbody', {}, table);
  grid.forEach((values, role) => {
    const row = html('tr', {}, body);
    html('th', { scope: 'row' }, row, data.roles[role]);
    for (const value of values) {
      const cell = html('td', {}, row, value === null ? '–' : (value / 10).toFixed(values.length > 12 ? 0 : 1));
      if (value === null) continue;
      const share = (value - low) / (high - low || 1);
      const stop = Math.round(share * (data.colours.length - 1));
      cell.style.background = data.colours[stop];
      cell.style.color = stop < data.colours.length / 2 ? '#ffffff' : '#000000';
    }
  });
}
