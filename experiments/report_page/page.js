"use strict";
// What every part of the page uses: the data, the colours, the details of a row, the commands, printing.

const DATA = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function numberText(value, digits, signed) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  if (Number(text) === 0) return text.replace("-", "");
  return (signed && value > 0 ? "+" : "") + text.replace("-", "\u2212");
}

// ---- Colours: the reader's system decides until the button does.

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";

function colour(name) { // a custom property as the colour that it is at present
  const probe = element("i", "", { hidden: "" });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function markColours() {
  root.dataset.shade = isDark() ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(isDark()));
}

function coloursChanged() {
  markColours();
  document.dispatchEvent(new Event("colours"));
}

byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  coloursChanged();
});
systemDark.addEventListener("change", coloursChanged);
markColours();

// ---- Copying and saving text.

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed for this page: the old way
    const area = element("textarea", text);
    (button.closest("dialog") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

function save(text, name) {
  const link = element("a", "", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const commandText = () => DATA.cells.labels.command.join("\n") + "\n";
byId("commands-summary").textContent = `All ${DATA.cells.labels.command.length.toLocaleString("en")} commands`;
byId("command-list").textContent = commandText();
byId("copy-commands").addEventListener("click", (event) => copy(commandText(), event.currentTarget));
byId("download-commands").addEventListener("click", () => save(commandText(), "commands.txt"));
byId("copy-command").addEventListener("click", (event) => copy(byId("details-command").textContent, event.currentTarget));

// ---- The details of a cell, or of one game of it.

const LISTED = 200; // records in the details; a cell may have thousands

function gamesOfCells() { // per cell its games as [seed, game]; made when first asked for
  const { cell, seed, game } = DATA.games.rows;
  const found = new Map();
  const seen = new Set();
  cell.forEach((number, i) => {
    if (seen.has(game[i])) return;
    seen.add(game[i]);
    if (!found.has(number)) found.set(number, []);
    found.get(number).push([seed[i], game[i]]);
  });
  gamesOfCells = () => found; // eslint-disable-line no-func-assign
  return found;
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`); // as a shell needs it

function commandOf(row) {
  if (row.game === undefined) return DATA.cells.labels.command[row.cell];
  return ["python experiments/run.py", ...DATA.cells.labels.overrides[row.cell].map(quoted), `seed=${row.seed}`].join(" ");
}

function openDetails(row) {
  const defense = row.defense === "none" ? "no defense" : `defense ${row.defense}`;
  byId("details-title").textContent = `${row.attack}${row.access ? ` (${row.access})` : ""} against ${row.procedure}, ${defense}`;
  const seeds = row.game === undefined ? `seeds ${DATA.cells.labels.seeds[row.cell]}` : `seed ${row.seed}`;
  byId("details-where").textContent = `${row.data}, ${row.model}, ${row.mode} targets, ${seeds}`;
  byId("details-command").textContent = commandOf(row);
  const differing = DATA.cells.labels.overrides[row.cell];
  byId("details-settings").replaceChildren(...(differing.length ? differing.map((word) => {
    const item = element("li");
    item.append(element("code", word));
    return item;
  }) : [element("li", "None.")]));
  const games = (gamesOfCells().get(row.cell) || []).filter(([, game]) => row.game === undefined || game === row.game);
  byId("details-games").replaceChildren(...games.slice(0, LISTED).map(([seed, game]) => {
    const item = element("li", `seed ${seed}: `);
    const path = DATA.games.paths.prefix + DATA.games.paths.rest[game];
    item.append(element("a", decodeURIComponent(path), { href: path }));
    return item;
  }));
  if (games.length > LISTED) byId("details-games").append(element("li", `and ${games.length - LISTED} more: choose “Every game”`));
  if (!games.length) byId("details-games").append(element("li", "Left out of this page."));
  byId("details").showModal();
}

byId("details").addEventListener("click", (event) => { // a click beside the dialog closes it
  if (event.target === byId("details")) byId("details").close();
});

// ---- On paper everything is light and open.

let screenState = null;
addEventListener("beforeprint", () => {
  screenState = { theme: root.dataset.theme, closed: [...document.querySelectorAll("section details:not([open], .numbers)")] };
  root.dataset.theme = "light";
  screenState.closed.forEach((each) => { each.open = true; });
  coloursChanged();
});
addEventListener("afterprint", () => {
  if (screenState.theme) root.dataset.theme = screenState.theme;
  else delete root.dataset.theme;
  screenState.closed.forEach((each) => { each.open = false; });
  screenState = null;
  coloursChanged();
});
