// Draws each chart from the specification that follows it. Its colours are CSS variables, in the SVG too,
// so that dark mode and print change them at once without drawing again.
(() => {
  const ink = "var(--ink)", muted = "var(--muted)";
  const config = {
    font: getComputedStyle(document.body).fontFamily,
    background: null,
    padding: { left: 0, top: 0, right: 0, bottom: 4 },
    view: { stroke: null },
    range: { category: ["var(--torch)", "var(--tensorflow)", "var(--jax)"] },
    axis: {
      domain: false, ticks: false, gridColor: "var(--hairline)", labelColor: muted, labelFontSize: 12,
      labelPadding: 8, titleColor: muted, titleFontSize: 12, titleFontWeight: "normal", tickCount: 5,
    },
    axisX: { titleAnchor: "end", titlePadding: 4, labelFlush: true },
    mark: { aria: false }, // each chart says in one sentence what it shows; not a label a point
    line: { strokeWidth: 1.75, strokeJoin: "round" },
    bar: { height: 8, cornerRadiusEnd: 2 },
    text: { fontSize: 13, color: ink },
    style: {
      gap: { filled: true, size: 9, fillOpacity: 0.45 },
      largest: { interpolate: "step-after" },
      break: { shape: "cross", angle: 45, filled: true, fillOpacity: 1, size: 90 },
      "break-name": { baseline: "bottom", dy: -8, fontWeight: 600 },
      bound: { color: muted, strokeDash: [2, 3] },
      "bound-name": { color: muted, fontSize: 12, align: "right", baseline: "bottom", dy: -3 },
      crosshair: { color: muted, strokeWidth: 1 },
      whisker: { color: ink, strokeWidth: 1.25 },
      first_step_s: { fillOpacity: 0.35 },
      name: { align: "left", dy: -14 },
      amount: { align: "right", dy: -14 },
    },
  };
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, config, tooltip: { disableDefaultStyle: true },
  };

  const draw = async (chart) => {
    const spec = JSON.parse(chart.nextElementSibling.textContent);
    const size = { width: "container", autosize: { type: "fit-x", contains: "padding" } };
    return (await vegaEmbed(chart, { ...size, ...spec }, options)).view;
  };

  const drawSection = async (section) => {
    const views = await Promise.all([...section.querySelectorAll(".chart")].map(draw));
    const buttons = [...section.querySelectorAll(".legend button")];
    for (const button of buttons)
      button.addEventListener("click", () => {
        const selection = button.getAttribute("aria-pressed") === "true" ? null : button;
        for (const other of buttons) other.setAttribute("aria-pressed", other === selection);
        for (const view of views) view.signal("selection", selection && selection.dataset.run).runAsync();
      });
  };

  // Whoever waits for the charts, such as a test or a printer, can see how it went.
  const state = document.documentElement.dataset;
  Promise.all([...document.querySelectorAll("section.model")].map(drawSection)).then(
    () => { state.charts = "drawn"; },
    (error) => { state.charts = "failed"; throw error; },
  );
})();
