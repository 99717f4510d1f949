// The heat map: per part of the game one drawing with two panels, without and with a defense.

let HEAT; // of the game that is looked at
let LARGEST;
const PAPER_WIDTH = 680; // of the text on A4 paper, in CSS pixels
const ROOMY = 80; // pixels that a field needs for its number
const RIGHT = 4;

const [chooseData, chooseDefense] = ["choose-data", "choose-defense"].map((id) => byId(id).querySelector("select"));

function choices(select, names) {
  select.replaceChildren(...names.map((name) => element("option", name || "all", { value: name })));
  select.parentElement.hidden = names.length < 2;
}

function startHeatmap() {
  HEAT = DATA.played[PLAYED].heatmap;
  LARGEST = Math.max(0.05, ...HEAT.panels.flatMap((panel) => panel.cells.map((cell) => Math.abs(cell.mean))));
  byId("scale-name").textContent = `Mean ${HEAT.label}; larger is what the attacker wants`;
  byId("scale-low").textContent = numberText(-LARGEST, 2, true);
  byId("scale-high").textContent = numberText(LARGEST, 2, true);
  choices(chooseData, ["", ...HEAT.data]);
  choices(chooseDefense, HEAT.defenses);
  byId("heatmap-controls").hidden = chooseData.length < 2 && chooseDefense.length < 2;
  byId("heatmap-panels").replaceChildren();
  drawHeatmaps();
}

const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // Plotly reads tags

const channels = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number); // of rgb(r, g, b)

function readable(background) { // black or white, whichever stands out more from a background of channels 0 to 255
  const [r, g, b] = background.map((c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return luminance > 0.179 ? "#111" : "#fff";
}

function trace(panel, scale, place) {
  const z = HEAT.attacks.map(() => HEAT.procedures.map(() => null));
  const hover = HEAT.attacks.map(() => HEAT.procedures.map(() => ""));
  for (const cell of panel.cells) {
    const interval = cell.low === null ? "no interval: no spread seen" : `95% interval ${numberText(cell.low, HEAT.digits, true)} to ${numberText(cell.high, HEAT.digits, true)}`;
    z[cell.attack][cell.procedure] = cell.mean;
    hover[cell.attack][cell.procedure] = `<b>${plain(HEAT.attacks[cell.attack])} against ${plain(HEAT.procedures[cell.procedure])}</b><br>`
      + `${panel.defense === null ? "no defense" : `defense ${plain(panel.defense)}`}, ${plain(HEAT.parts[panel.part])}<br>`
      + `mean ${plain(HEAT.label)} ${numberText(cell.mean, HEAT.digits, true)}<br>${interval}<br>${cell.goal ? `goal: ${plain(cell.goal)}<br>` : ""}${cell.n} game${cell.n === 1 ? "" : "s"} of ${cell.cells} cell${cell.cells === 1 ? "" : "s"}`;
  }
  return {
    type: "heatmap", z, hovertext: hover, hovertemplate: "%{hovertext}<extra></extra>", hoverongaps: false, xgap: 3, ygap: 3,
    zmin: -LARGEST, zmax: LARGEST, colorscale: scale, showscale: false, xaxis: `x${place}`, yaxis: `y${place}`,
  };
}

function numbers(panel, scale, place, narrow) { // what is written into the fields, in the ink that reads best there
  const [low, middle, high] = scale.map(([, shade]) => channels(shade));
  return panel.cells.map((cell) => {
    const share = Math.abs(cell.mean) / LARGEST;
    const end = cell.mean < 0 ? low : high;
    const ink = readable(middle.map((c, i) => c + share * (end[i] - c)));
    return {
      x: cell.procedure, y: cell.attack, xref: `x${place}`, yref: `y${place}`, showarrow: false,
      text: `${numberText(cell.mean, Math.min(HEAT.digits, narrow ? 2 : 3), true)}<br><span style="font-size:82%">n = ${cell.n.toLocaleString("en")}</span>`,
      font: { color: ink, size: narrow ? 11.5 : 13.5 },
    };
  });
}

function wrapped(name) { // every setting on a line of its own, and a long name on two
  return name.replace(/ \(/, "<br>(").replace(/, /g, ",<br>").replace(/_(?=\w{4,})/g, "_<br>");
}

const linesOf = (names) => names.map((name) => wrapped(name).split("<br>"));
const deepest = (names) => Math.max(...linesOf(names).map((lines) => lines.length));
const longest = (names) => Math.max(...names.map((name) => name.length));
const folded = (narrow) => narrow || longest(HEAT.attacks) > 30; // names of attacks need several lines

function labelWidth(narrow) { // of the names of the attacks
  const letters = folded(narrow) ? longest(linesOf(HEAT.attacks).flat()) : longest(HEAT.attacks);
  return narrow ? Math.min(200, Math.max(96, 10 + 6 * letters)) : 30 + 7.3 * letters;
}

function fieldWidth(width, narrow) {
  return (width - labelWidth(narrow) - RIGHT) / (HEAT.procedures.length * (narrow ? 1 : 2));
}

function layout(panels, scale, width, narrow) {
  const ink = colour("--ink");
  const tight = narrow || fieldWidth(width, narrow) < 7.4 * longest(HEAT.procedures);
  const needed = folded(narrow) ? 8 + 15 * deepest(HEAT.attacks) : 0;
  const rows = HEAT.attacks.length * Math.max(narrow ? 46 : 52, needed);
  const above = 34; // of a panel, for its title
  const letters = longest(linesOf(HEAT.procedures).flat());
  const upright = tight && fieldWidth(width, narrow) < 5.6 * letters; // where even lines would meet, names stand upright
  const below = upright ? 12 + 6.2 * longest(HEAT.procedures) : tight ? Math.max(36, 6 + 16 * deepest(HEAT.procedures)) : 26;
  const count = panels.length;
  const height = (narrow ? count : 1) * (rows + above + below);
  const named = (names, wrap) => ({ type: "linear", tickvals: names.map((_, i) => i), ticktext: names.map((name) => (wrap ? wrapped(plain(name)) : plain(name))), range: [-0.5, names.length - 0.5] });
  const axis = { showgrid: false, zeroline: false, ticks: "", fixedrange: true, showline: false, tickangle: 0, tickfont: { size: narrow ? 10.5 : 12.5 } };
  const made = {
    width, height, paper_bgcolor: "transparent", plot_bgcolor: "transparent", dragmode: false, annotations: [],
    margin: { l: labelWidth(narrow), r: RIGHT, t: 0, b: 0 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--quiet"), font: { color: ink, size: 13 }, align: "left" },
  };
  panels.forEach((panel, i) => {
    const place = i ? String(i + 1) : "";
    const top = 1 - ((narrow ? i * (rows + above + below) : 0) + above) / height;
    const gap = 0.03;
    const across = narrow ? [0, 1] : [(i * (1 + gap)) / count, ((i + 1) * (1 + gap)) / count - gap];
    made[`xaxis${place}`] = { ...axis, ...named(HEAT.procedures, tight && !upright), tickangle: upright ? -90 : 0, domain: across, anchor: `y${place}` };
    made[`yaxis${place}`] = { ...axis, ...named(HEAT.attacks, folded(narrow)), domain: [Math.max(0, top - rows / height), top], anchor: `x${place}`, showticklabels: narrow || i === 0 };
    made[`yaxis${place}`].range.reverse();
    made.annotations.push(...numbers(panel, scale, place, narrow), {
      text: panel.defense === null ? "without a defense" : `with ${plain(panel.defense)}`, x: across[0], y: top, xref: "paper", yref: "paper",
      xanchor: "left", yanchor: "bottom", yshift: 4, showarrow: false, font: { size: 13, color: colour("--quiet") },
    });
  });
  return made;
}

function drawHeatmaps() {
  const box = byId("heatmap-panels");
  const width = Math.floor(screenState ? PAPER_WIDTH : box.clientWidth);
  if (!width) return;
  const narrow = fieldWidth(width, false) < ROOMY; // then one panel below the other
  for (const [part, name] of Object.entries(HEAT.parts)) {
    const panels = HEAT.panels.filter((each) => each.part === part && each.data === chooseData.value
      && (each.defense === null || each.defense === chooseDefense.value));
    if (!panels.length) continue;
    let place = byId(`heatmap-${part}`);
    if (!place) {
      const panel = element("div", undefined, { class: "panel" });
      const label = `Heat map of the mean ${HEAT.label}, ${name}; the same numbers follow as a table.`;
      place = element("div", undefined, { id: `heatmap-${part}`, role: "img", "aria-label": label });
      panel.append(element("h3", name), place);
      box.append(panel);
    }
    const scale = [[0, colour("--heat-low")], [0.5, colour("--heat-middle")], [1, colour("--heat-high")]];
    const traces = panels.map((each, i) => trace(each, scale, i ? String(i + 1) : ""));
    Plotly.react(place, traces, layout(panels, scale, width, narrow), { displayModeBar: false, scrollZoom: false, doubleClick: false });
  }
}

for (const select of [chooseData, chooseDefense]) select.addEventListener("change", drawHeatmaps);
document.addEventListener("colours", drawHeatmaps);
document.addEventListener("game", startHeatmap);
startHeatmap();
let drawnWidth = 0; // an observer also speaks when the height changes, as it does by drawing
new ResizeObserver(([{ contentRect: { width } }]) => {
  if (screenState || width === drawnWidth) return;
  drawnWidth = width;
  drawHeatmaps();
}).observe(byId("heatmap-panels"));
