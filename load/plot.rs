//! Line charts as SVG, as much as is needed to see a curve.

use std::path::Path;

use serde_json::Value;

use crate::Failure;
use crate::report::at;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart by people who don't see all colours as well (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Which rows make which curve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot {
    /// Also the name of the file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// A heading and a path in the row, as a table has them.
    pub(crate) x: (&'static str, &'static str),
    pub(crate) y: (&'static str, &'static str),
    /// What `y` is multiplied with: latencies are in µs in the rows.
    pub(crate) scale: f64,
}

type Curve = (String, Vec<(f64, f64)>);

/// Draws rows of several servers and ways, each as a curve.
pub(crate) fn draw(directory: Option<&Path>, plot: Plot, rows: &[Value]) -> Result<(), Failure> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in rows {
        let (Some(x), Some(y)) = (at(row, plot.x.1).as_f64(), at(row, plot.y.1).as_f64()) else { continue };
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let name = format!("{} {}", text("server"), text("way"));
        let point = (x, y * plot.scale);
        match curves.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push(point),
            None => curves.push((name, vec![point])),
        }
    }
    write(directory, plot, &mut curves)
}

/// Draws a curve for each row from its series of pairs.
pub(crate) fn draw_series(directory: Option<&Path>, plot: Plot, rows: &[Value]) -> Result<(), Failure> {
    let pair = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_f64()? * plot.scale));
    let curve = |row: &Value| {
        let name = format!("{} {}", row["server"].as_str()?, row["way"].as_str()?);
        Some((name, row[plot.y.1].as_array()?.iter().filter_map(pair).collect()))
    };
    write(directory, plot, &mut rows.iter().filter_map(curve).collect::<Vec<_>>())
}

fn write(directory: Option<&Path>, plot: Plot, curves: &mut Vec<Curve>) -> Result<(), Failure> {
    let Some(directory) = directory else { return Ok(()) };
    curves.retain(|(_, points)| !points.is_empty());
    curves.iter_mut().for_each(|(_, points)| points.sort_by(|one, two| one.0.total_cmp(&two.0)));
    std::fs::create_dir_all(directory)?;
    Ok(std::fs::write(directory.join(format!("{}.svg", plot.name)), svg(plot, curves))?)
}

fn svg(plot: Plot, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|(_, points)| points);
    // Loads are compared by factors; costs as well where they differ by more than a factor of 50.
    let (least, most) = points().fold((f64::INFINITY, 0.0_f64), |(least, most), (_, y)| (least.min(*y), most.max(*y)));
    let x = Axis::new(points().map(|(x, _)| *x), points().all(|(x, _)| *x > 0.0), LEFT, WIDTH - RIGHT);
    let y = Axis::new(points().map(|(_, y)| *y), least > 0.0 && most > least * 50.0, HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    text(&mut out, middle, 20.0, "middle", &format!("<tspan font-size=\"15\">{}</tspan>", plot.title));
    text(&mut out, middle, HEIGHT - 10.0, "middle", plot.x.0);
    text(&mut out, LEFT, TOP - 8.0, "end", plot.y.0);
    for value in x.ticks() {
        let at = x.place(value);
        line(&mut out, (at, TOP), (at, HEIGHT - BOTTOM));
        text(&mut out, at, HEIGHT - BOTTOM + 18.0, "middle", &short(value));
    }
    for value in y.ticks() {
        let at = y.place(value);
        line(&mut out, (LEFT, at), (WIDTH - RIGHT, at));
        text(&mut out, LEFT - 6.0, at + 4.0, "end", &short(value));
    }
    for (number, (name, points)) in curves.iter().enumerate() {
        curve(&mut out, number, name, &points.iter().map(|(px, py)| (x.place(*px), y.place(*py))).collect::<Vec<_>>());
    }
    out + "</svg>\n"
}

fn curve(out: &mut String, number: usize, name: &str, points: &[(f64, f64)]) {
    let colour = COLOURS[number % COLOURS.len()];
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    out.push_str(&format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
        path.join(" ")
    ));
    for (x, y) in points.iter().take(if points.len() > 30 { 0 } else { 30 }) {
        out.push_str(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n"));
    }
    let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 10.0 + 18.0 * number as f64);
    out.push_str(&format!("<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>\n", y - 6.0));
    text(out, x + 18.0, y, "start", name);
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    out.push_str(&format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>\n"));
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    out.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"));
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", value / 1e6),
        _ if value >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{}", crate::number::round(value)),
    }
}

/// From values to places on the paper.
#[derive(Debug)]
struct Axis {
    is_log: bool,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    /// Linear ones begin at 0: a curve that looks steep is steep.
    fn new(values: impl Iterator<Item = f64>, is_log: bool, start: f64, end: f64) -> Self {
        let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(least, most), v| (least.min(v), most.max(v)));
        let (from, to) = match (is_log && least.is_finite(), most > 0.0) {
            (true, _) => (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0)),
            (false, true) => (0.0, most * 1.05),
            (false, false) => (0.0, 1.0),
        };
        Self { is_log: is_log && least.is_finite(), from, to, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.is_log { value.log10() } else { value };
        self.start + (value - self.from) / (self.to - self.from) * (self.end - self.start)
    }

    /// Powers of ten, or about six round numbers.
    fn ticks(&self) -> Vec<f64> {
        let (step, count) = if self.is_log {
            (1.0, self.to - self.from)
        } else {
            let rough = self.to / 6.0;
            let power = 10_f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
            let step = step.unwrap_or(rough);
            (step, (self.to / step).floor())
        };
        let value = |number: u64| self.from + number as f64 * step;
        let values = (0..=crate::number::to_u64(count)).map(value).filter(|value| *value <= self.to);
        values.map(|value| if self.is_log { 10_f64.powf(value) } else { value }).collect()
    }
}
