"use strict";
// What every part of the page uses: the data, the colours, the details of a row, the commands, printing.

const DATA = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);
let PLAYED = 0; // which game the heat map and the tables are about

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

function gamesOfCells() { // per cell its games as [seed, record]; made when first asked for
  const found = new Map();
  const seen = new Set();
  for (const { cell, seed, record } of DATA.games.rows) {
    cell.forEach((number, i) => {
      if (seen.has(record[i])) return;
      seen.add(record[i]);
      if (!found.has(number)) found.set(number, []);
      found.get(number).push([seed[i], record[i]]);
    });
  }
  gamesOfCells = () => found; // eslint-disable-line no-func-assign
  return found;
}

function commandOf(row) {
  const { command, one } = DATA.cells.labels;
  return row.record === undefined ? command[row.cell] : `${one[row.cell]} seed=${row.seed}`;
}

function openDetails(row) {
  const defense = row.defense === "none" ? "no defense" : `defense ${row.defense}`;
  byId("details-title").textContent = `${row.attack} against ${row.unlearning}, ${defense}`;
  const seeds = row.record === undefined ? `seeds ${DATA.cells.labels.seeds[row.cell]}` : `seed ${row.seed}`;
  byId("details-where").textContent = `${row.game}, ${row.data}, ${row.model}, ${seeds}`;
  byId("details-command").textContent = commandOf(row);
  const differing = DATA.cells.labels.overrides[row.cell];
  byId("details-settings").replaceChildren(...(differing.length ? differing.map((word) => {
    const item = element("li");
    item.append(element("code", word));
    return item;
  }) : [element("li", "None.")]));
  const games = (gamesOfCells().get(row.cell) || []).filter(([, record]) => row.record === undefined || record === row.record);
  byId("details-games").replaceChildren(...games.slice(0, LISTED).map(([seed, record]) => {
    const item = element("li", `seed ${seed}: `);
    const path = DATA.games.paths.prefix + DATA.games.paths.rest[record];
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

// ---- With several games one of them is looked at.

const chooseGame = byId("choose-game").querySelector("select");
DATA.played.forEach(({ name }, i) => chooseGame.append(element("option", name, { value: i })));
byId("choose-game").hidden = DATA.played.length < 2;
chooseGame.addEventListener("change", () => {
  PLAYED = Number(chooseGame.value);
  document.dispatchEvent(new Event("game"));
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
