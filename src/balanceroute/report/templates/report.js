"use strict";
(() => {
  const root = document.documentElement;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;

  // The figures name their colours ("$mean"); the style sheet knows them for the current theme.
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const paint = (value) => {
    if (typeof value === "string" && value.startsWith("$")) return colour(value.slice(1));
    if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(paint) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, paint(part)]));
  };

  const axis = { gridcolor: "$grid", zerolinecolor: "$grid", linecolor: "$rule", automargin: true };
  const axisOf = ({ title, ...rest }) => ({
    ...axis,
    ...rest,
    title: { font: { size: 13 }, standoff: 10, ...title },
  });
  const layoutOf = (layout) => paint({
    margin: { l: 10, r: 25, t: 10, b: 10 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: "$text", family: getComputedStyle(document.body).fontFamily, size: 13 },
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, traceorder: "normal" },
    hoverlabel: { namelength: -1 },
    // On a touch screen a finger on a figure must scroll the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...layout,
    xaxis: axisOf(layout.xaxis),
    yaxis: axisOf(layout.yaxis),
  });
  const config = { responsive: true, displayModeBar: false };
  const draw = (extra = {}) => {
    for (const [key, plot] of Object.entries(plots)) {
      if (!plot.data.length) continue;
      Plotly.react(key, paint(plot.data), layoutOf({ ...plot.layout, ...extra }), config);
    }
  };

  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  let theme = "auto";
  const show = (chosen) => {
    theme = themes.includes(chosen) ? chosen : "auto";
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    draw();
  };
  // Storage is refused to local files by some browsers; then the choice lasts as long as the page.
  const storage = (use) => { try { return use(localStorage); } catch { return null; } };
  button.addEventListener("click", () => {
    show(themes[(themes.indexOf(theme) + 1) % themes.length]);
    storage((store) => store.setItem("balanceroute-theme", theme));
  });
  button.hidden = false;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

  // Paper is white and 700 px wide.
  addEventListener("beforeprint", () => { root.dataset.theme = "light"; draw({ width: 700 }); });
  addEventListener("afterprint", () => show(theme));

  show(storage((store) => store.getItem("balanceroute-theme")));
})();
