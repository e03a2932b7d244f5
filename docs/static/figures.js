// Plotly's figures: the script is fetched when the first of them comes into view, and draws them in the colours of the page.
(() => {
  const figures = [...document.querySelectorAll(".live-figure")];
  if (!figures.length) return;
  const base = document.currentScript.src.replace(/figures\.js.*$/, "");
  let loading = null;
  const plotly = () => loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = base + "plotly.min.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.append(script);
  });
  const dark = () => document.documentElement.dataset.theme === "dark";
  const colors = () => {
    const ink = dark() ? "#d6dbe3" : "#2a3342", line = dark() ? "#3a4454" : "#dfe3e9";
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: ink } };
    return { ink, line, axis };
  };
  const themed = layout => {
    const { ink, axis } = colors(), made = structuredClone(layout);
    delete made.width;
    made.autosize = true;
    Object.assign(made, { paper_bgcolor: "rgba(0,0,0,0)", font: { ...made.font, color: ink } });
    if (dark()) {
      made.plot_bgcolor = "rgba(0,0,0,0)";
      for (const key of Object.keys(made)) if (/^[xy]axis\d*$/.test(key)) made[key] = { ...made[key], ...axis };
      for (const note of made.annotations ?? []) note.font = { ...note.font, color: ink };
      if (made.legend) made.legend = { ...made.legend, bgcolor: "rgba(0,0,0,0)", font: { ...made.legend.font, color: ink } };
      if (made.title?.font) made.title.font.color = ink;
    }
    return made;
  };
  const draw = async box => {
    const figure = box.figure ??= JSON.parse(box.querySelector("script").textContent), Plotly = await plotly();
    const place = box.place ??= document.createElement("div");
    if (!place.isConnected) { box.querySelector("img")?.remove(); box.append(place); }
    place.style.minWidth = Math.min(figure.layout.width ?? 480, 640) + "px"; // on a phone it scrolls rather than squeezes
    place.style.height = (figure.layout.height ?? 450) + "px";
    await Plotly.react(place, figure.data, themed(figure.layout), { responsive: true, displaylogo: false, ...figure.config });
    box.dataset.drawn = "yes";
  };
  const seen = new IntersectionObserver(entries => {
    for (const e of entries) if (e.isIntersecting) { seen.unobserve(e.target); draw(e.target); }
  }, { rootMargin: "300px" });
  figures.forEach(f => seen.observe(f));
  new MutationObserver(() => figures.filter(f => f.dataset.drawn).forEach(draw)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
