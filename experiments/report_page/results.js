// The results table, once with a row per cell and part, once with a row per game and part.

const MANY = 12; // distinct words up to which a column is filtered by choosing instead of typing

function rowsOf(block) { // columns of the data as the row objects that Tabulator reads
  const labels = Object.entries(DATA.cells.labels).filter(([, words]) => words.codes);
  const rows = block.rows[PLAYED];
  const columns = Object.entries(rows);
  return rows.cell.map((cell, i) => {
    const row = { id: i };
    for (const [name, words] of labels) row[name] = words.levels[words.codes[cell]];
    for (const [name, values] of columns) row[name] = values.codes ? values.levels[values.codes[i]] : values[i];
    return row;
  });
}

function matches(wanted, value) { // 0.2 | >0.2 | 0.1..0.3; an unfinished condition matches everything
  const text = wanted.replaceAll("\u2212", "-").replaceAll(" ", "");
  const between = text.match(/^(-?\d*\.?\d+)\.\.(-?\d*\.?\d+)$/);
  if (between) return value !== null && value >= Number(between[1]) && value <= Number(between[2]);
  const found = text.match(/^(<=|>=|<|>|=)?([+-]?\d*\.?\d+)$/);
  if (!found) return true;
  if (value === null || value === undefined) return false;
  const limit = Number(found[2]);
  switch (found[1]) {
    case "<": return value < limit;
    case "<=": return value <= limit;
    case ">": return value > limit;
    case ">=": return value >= limit;
    default: return Math.abs(value - limit) <= 0.5 * 10 ** -(found[2].split(".")[1] || "").length;
  }
}

function settingColumn([key, help], rows) {
  const names = [...new Set(rows.map((row) => row[key]))].sort();
  const choose = names.length <= MANY;
  return {
    title: key, field: key, headerTooltip: help, titleDownload: key, constant: names.length < 2,
    headerFilter: choose ? "list" : "input", headerFilterFunc: choose ? "=" : "like",
    headerFilterParams: {
      ...(choose ? { values: names, clearable: true, itemFormatter: plain } : {}),
      elementAttributes: { "aria-label": `Filter ${key}` },
    },
    frozen: key === "attack" && innerWidth > 700,
  };
}

function numberColumn(spec) {
  const format = (cell) => {
    const value = cell.getValue();
    const made = element("span", numberText(value, spec.digits, spec.signed));
    const [low, high] = ["low", "high"].map((end) => cell.getData()[`${spec.key}_${end}`]);
    if (value !== null && low !== null && low !== undefined) {
      const [down, up] = [numberText(value - low, spec.digits), numberText(high - value, spec.digits)];
      const text = down === up ? ` ± ${up}` : ` [${numberText(low, spec.digits)}, ${numberText(high, spec.digits)}]`;
      made.append(element("span", text, { class: "half" }));
    }
    const { n: all, [`${spec.key}_n`]: n } = cell.getData();
    if (value !== null && n < all) made.append(element("span", ` (n=${n})`, { class: "half" }));
    return made;
  };
  return {
    title: spec.title, field: spec.key, hozAlign: "right", cssClass: "number", sorter: "number", sorterParams: { alignEmptyValues: "bottom" },
    formatter: format, minWidth: 58, headerTooltip: spec.help || false, titleDownload: spec.key, headerSortStartingDir: "desc",
    headerFilter: "input", headerFilterFunc: matches, headerFilterLiveFilter: true,
    headerFilterParams: { elementAttributes: { "aria-label": `Filter ${spec.group} ${spec.title}`, size: 6 } },
  };
}

function columnsFor(rows, extra, intervals) {
  const button = {
    title: "", headerSort: false, width: 44, resizable: false, print: false, download: false, frozen: innerWidth > 700,
    formatter: () => element("button", "›", { type: "button", "aria-label": "Details and command", title: "Details and command" }),
  };
  const columns = [button, ...Object.entries(DATA.settings).map((entry) => settingColumn(entry, rows)), ...extra.map(numberColumn)];
  for (const spec of DATA.played[PLAYED].metrics) {
    const last = columns.at(-1);
    if (spec.group && last.columns && last.title === spec.group) last.columns.push(numberColumn(spec));
    else columns.push({ title: spec.group, columns: [numberColumn(spec)] });
    if (intervals) {
      for (const end of ["low", "high"]) {
        const hidden = { title: `${spec.key}_${end}95`, field: `${spec.key}_${end}`, visible: false, download: true, print: false };
        columns.at(-1).columns.push(hidden);
      }
      const own = { title: `${spec.key}_n`, field: `${spec.key}_n`, visible: false, download: true, print: false };
      if (rows.length && own.field in rows[0]) columns.at(-1).columns.push(own);
    }
  }
  return columns;
}

function makeTable(id, rows, extra, intervals) {
  const columns = columnsFor(rows, extra, intervals);
  const constant = new Set(columns.filter((column) => column.constant).map((column) => column.field));
  const shown = (every) => columns.map(({ constant: _, ...column }) => ({ ...column, ...(constant.has(column.field) ? { visible: every, download: true } : {}) }));
  const table = new Tabulator(`#${id}`, {
    data: rows, columns: shown(byId("every-column").checked), layout: "fitDataFill", columnHeaderVertAlign: "bottom", maxHeight: "min(75vh, 46rem)", nestedFieldSeparator: false,
    placeholder: "No row matches.", columnDefaults: { headerSortTristate: true }, printAsHtml: true, printStyled: false,
    printRowRange: "active", downloadConfig: { columnGroups: false, columnHeaders: true }, downloadRowRange: "active",
  });
  table.on("rowClick", (_, row) => openDetails(row.getData()));
  table.on("dataFiltered", (_, kept) => countRows(kept.length, rows.length));
  table.on("tableBuilt", () => headingsByKeyboard(id));
  return { table, rows, constant };
}

function headingsByKeyboard(id) {
  document.querySelectorAll(`#${id} .tabulator-sortable`).forEach((heading) => {
    heading.tabIndex = 0;
    heading.addEventListener("keydown", (event) => {
      if (event.target !== heading || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      heading.click();
    });
  });
}

function countRows(kept, all) {
  const number = (n) => n.toLocaleString("en");
  byId("row-count").textContent = kept === all ? `${number(all)} rows.` : `${number(kept)} of ${number(all)} rows.`;
}

function search(made) {
  const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fields = [...Object.keys(DATA.settings), "seed"];
  const text = (row) => (row.text ??= fields.map((field) => row[field] ?? "").join(" ").toLowerCase());
  if (wanted.length) made.table.setFilter((row) => wanted.every((word) => text(row).includes(word)));
  else made.table.clearFilter();
}

// ---- The table of games is made when it is first asked for.

const plainNumber = (key, title, help) => ({ key, title, help, group: "", digits: 0, signed: false });
const tables = {};
let current = "cells";

function startTables() { // of the game that is looked at
  for (const name of Object.keys(tables)) {
    tables[name].table.destroy();
    delete tables[name];
  }
  tables.cells = makeTable("cells-table", rowsOf(DATA.cells), [plainNumber("n", "n", "games that are pooled (seeds); a number that fewer of them have has its own n beside it")], true);
  const [first] = tables.cells.rows;
  const same = first ? [...tables.cells.constant].map((key) => `${key} ${first[key]}`) : [];
  byId("same-everywhere").textContent = same.length ? `The same in every row: ${same.join(", ")}.` : "";
  tables.cells.table.on("tableBuilt", () => showTable(current));
}

function showTable(name) {
  current = name;
  for (const each of ["cells", "games"]) {
    byId(`${each}-table`).hidden = each !== name;
    byId(`show-${each}`).setAttribute("aria-pressed", String(each === name));
  }
  if (!tables[name]) {
    tables[name] = makeTable("games-table", rowsOf(DATA.games), [plainNumber("seed", "seed", "root seed of the game")], false);
    tables[name].table.on("tableBuilt", () => search(tables[name]));
  } else {
    tables[name].table.redraw();
    search(tables[name]);
  }
}
byId("every-column").addEventListener("change", (event) => {
  for (const { table, constant } of Object.values(tables)) {
    for (const field of constant) (event.target.checked ? table.showColumn(field) : table.hideColumn(field));
    table.redraw(true);
  }
});
document.addEventListener("game", startTables);
startTables();
byId("show-cells").addEventListener("click", () => showTable("cells"));
byId("show-games").addEventListener("click", () => showTable("games"));
let typing; // the rows follow when the typing pauses
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => search(tables[current]), 120);
});
byId("download").addEventListener("click", () => tables[current].table.download("csv", `${current}.csv`));
