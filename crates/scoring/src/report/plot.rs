//! The plots of a report: SVG by plotters, with a title and a description for those who do not see
//! them. Colours are those of the light theme; the page's style sheet puts the dark ones in their
//! place, and its script moves what marks the threshold.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::page::{escaped, thousands, visible};
use super::{Evaluation, GroupedBy, Groups, Report};
use crate::results::HISTOGRAM_BINS;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The text of an error of plotters: its own type borrows what is drawn on.
type Drawn<T> = Result<T, String>;

/// How many rows have which score.
pub(super) fn scores(report: &Report) -> Drawn<String> {
    let histogram = &report.summary.histogram;
    let counts = Counts::of(histogram.iter().copied());
    let description = format!(
        "{} scored rows in {HISTOGRAM_BINS} bins from 0 to 1. The fullest has {}. A line marks the threshold.",
        thousands(report.summary.scored()),
        thousands(histogram.iter().copied().max().unwrap_or(0)),
    );
    let threshold = report.header.threshold;
    plot("scores", "Rows by score", &description, WIDE, |drawing| {
        let mut chart = ChartBuilder::on(drawing)
            .margin_top(24)
            .margin_right(24)
            .x_label_area_size(96)
            .y_label_area_size(170)
            .build_cartesian_2d(0.0..1.0, counts.bottom..counts.top)
            .map_err(said)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(label())
            .axis_desc_style(label())
            .x_labels(11)
            .x_label_formatter(&|x| format!("{x:.1}"))
            .y_labels(counts.labels)
            .y_label_formatter(&|y| counts.label(*y))
            .x_desc("Score")
            .y_desc(counts.described("Rows"))
            .draw()
            .map_err(said)?;
        let bins = HISTOGRAM_BINS as f64;
        let bars = histogram
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        chart
            .draw_series(bars.map(|(bin, &count)| {
                let (from, to) = ((bin as f64 + 0.06) / bins, (bin as f64 + 0.94) / bins);
                Rectangle::new(
                    [(from, counts.bottom), (to, counts.place(count))],
                    BAR.filled(),
                )
            }))
            .map_err(said)?;
        let [left, right] = [0.0, 1.0].map(|x| chart.backend_coord(&(x, counts.bottom)).0);
        let [top, bottom] = [counts.top, counts.bottom].map(|y| chart.backend_coord(&(0.0, y)).1);
        let at = f64::from(left) + threshold * f64::from(right - left);
        Ok(Added {
            below: format!(
                r##"<rect id="above" x="{at:.1}" y="{top}" width="{:.1}" height="{}"/>"##,
                f64::from(right) - at,
                bottom - top,
            ),
            above: format!(
                r##"<line id="cut" x1="{at:.1}" x2="{at:.1}" y1="{top}" y2="{bottom}" data-left="{left}" data-right="{right}"/>"##
            ),
        })
    })
}

/// Flagged rows by file, hour or block.
pub(super) fn groups(groups: &Groups) -> Drawn<String> {
    match groups.by {
        GroupedBy::File => files(groups),
        GroupedBy::Hours(_) | GroupedBy::Rows(_) => blocks(groups),
    }
}

/// How many files have a bar.
pub(super) const MOST_BARS: usize = 30;

fn files(groups: &Groups) -> Drawn<String> {
    let mut files: Vec<_> = groups.groups.iter().collect();
    files.sort_by_key(|group| std::cmp::Reverse(group.flagged));
    files.truncate(MOST_BARS);
    let most = files.first().map_or(1, |group| group.flagged).max(1) as f64;
    let described = format!("Flagged rows in each of {} files.", files.len());
    let names: Vec<String> = files
        .iter()
        .map(|group| shortened(&visible(&group.name), 40))
        .collect();
    let longest = names.iter().map(|name| name.chars().count()).max();
    let margin = 60 + 17 * i32::try_from(longest.unwrap_or(0)).unwrap_or(40);
    let height = 60 + 56 * u32::try_from(files.len()).unwrap_or(30);
    plot(
        "groups",
        "Flagged rows by file",
        &described,
        (WIDE.0, height),
        |drawing| {
            let chart = ChartBuilder::on(drawing)
                .margin(20)
                .set_left_and_bottom_label_area_size(0)
                .x_label_area_size(0)
                .margin_left(margin)
                .margin_right(220)
                .build_cartesian_2d(0.0..most, 0.0..files.len() as f64)
                .map_err(said)?;
            for (at, group) in files.iter().enumerate() {
                let middle = files.len() as f64 - at as f64 - 0.5;
                let (left, y) = chart.backend_coord(&(0.0, middle));
                let (right, _) = chart.backend_coord(&(group.flagged as f64, middle));
                let bar = [(left, y - 18), (right.max(left + 2), y + 18)];
                drawing
                    .draw(&Rectangle::new(bar, FLAGGED.filled()))
                    .map_err(said)?;
                drawing
                    .draw_text(&names[at], &anchored(HPos::Right, INK), (left - 20, y))
                    .map_err(said)?;
                drawing
                    .draw_text(
                        &thousands(group.flagged),
                        &anchored(HPos::Left, MUTED),
                        (right + 16, y),
                    )
                    .map_err(said)?;
            }
            Ok(Added::default())
        },
    )
}

fn blocks(groups: &Groups) -> Drawn<String> {
    let blocks = &groups.groups;
    let most = blocks.iter().map(|group| group.flagged).max().unwrap_or(0);
    let counts = Counts::linear(most);
    let what = match groups.by {
        GroupedBy::Hours(1) => "Hour".to_owned(),
        GroupedBy::Hours(hours) => format!("From, {hours} hours each"),
        _ => "Rows".to_owned(),
    };
    let described = format!(
        "Flagged rows in each of {} groups, {} at most.",
        blocks.len(),
        thousands(most)
    );
    let by = match groups.by {
        GroupedBy::Hours(_) => "hour",
        _ => "row number",
    };
    let title = format!("Flagged rows by {by}");
    plot("groups", &title, &described, WIDE, |drawing| {
        let mut chart = ChartBuilder::on(drawing)
            .margin_top(24)
            .margin_right(40)
            .x_label_area_size(96)
            .y_label_area_size(170)
            .build_cartesian_2d(0.0..blocks.len() as f64, 0.0..counts.top)
            .map_err(said)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(label())
            .axis_desc_style(label())
            .x_labels(0)
            .y_labels(counts.labels)
            .y_label_formatter(&|y| counts.label(*y))
            .x_desc(what.as_str())
            .y_desc("Flagged rows")
            .draw()
            .map_err(said)?;
        chart
            .draw_series(blocks.iter().enumerate().map(|(at, group)| {
                let (from, to) = (at as f64 + 0.08, at as f64 + 0.92);
                Rectangle::new([(from, 0.0), (to, group.flagged as f64)], FLAGGED.filled())
            }))
            .map_err(said)?;
        // As many names as fit without touching.
        let longest = blocks
            .iter()
            .map(|group| group.name.chars().count())
            .max()
            .unwrap_or(1);
        let fitting = (1640 / (longest * 15 + 40)).max(2);
        let step = blocks.len().div_ceil(fitting).max(1);
        for (at, group) in blocks.iter().enumerate().step_by(step) {
            let (x, y) = chart.backend_coord(&(at as f64 + 0.5, 0.0));
            drawing
                .draw_text(&group.name, &top_anchored(), (x, y + 12))
                .map_err(said)?;
        }
        Ok(Added::default())
    })
}

/// Caught fraud over false alarms.
pub(super) fn roc(report: &Report, evaluation: &Evaluation) -> Drawn<String> {
    let described = match evaluation.roc_auc {
        Some(area) => {
            format!("Caught fraud over false alarms; the area under the curve is {area:.4}.")
        }
        None => "Caught fraud over false alarms, down to the threshold of the file.".to_owned(),
    };
    let at = operating_point(report, evaluation).map(|(recall, alarms, _)| (alarms, recall));
    curve(
        &Curve {
            id: "roc",
            title: "ROC",
            described: &described,
            x: "False alarms among honest rows",
            y: "Caught fraud",
            guide: Some([(0.0, 0.0), (1.0, 1.0)]),
            at,
        },
        &evaluation.roc,
    )
}

/// Precision over recall.
pub(super) fn precision_recall(report: &Report, evaluation: &Evaluation) -> Drawn<String> {
    let described = match evaluation.average_precision {
        Some(average) => {
            format!("Precision over caught fraud; the average precision is {average:.4}.")
        }
        None => "Precision over caught fraud, down to the threshold of the file.".to_owned(),
    };
    let all = evaluation.frauds + evaluation.honest;
    let base = evaluation.frauds as f64 / all.max(1) as f64;
    let at = operating_point(report, evaluation)
        .and_then(|(recall, _, precision)| Some((recall, precision?)));
    curve(
        &Curve {
            id: "pr",
            title: "Precision and recall",
            described: &described,
            x: "Caught fraud (recall)",
            y: "Fraud among flagged (precision)",
            guide: Some([(0.0, base), (1.0, base)]),
            at,
        },
        &evaluation.precision_recall,
    )
}

/// Recall, the rate of false alarms, and precision at the file's threshold.
fn operating_point(report: &Report, evaluation: &Evaluation) -> Option<(f64, f64, Option<f64>)> {
    let hits = report.at_its_threshold()?.hits?;
    let confusion = super::Confusion::new(hits, evaluation);
    Some((
        confusion.recall()?,
        confusion.false_alarm_rate().unwrap_or(0.0),
        confusion.precision(),
    ))
}

struct Curve<'a> {
    id: &'a str,
    title: &'a str,
    described: &'a str,
    x: &'a str,
    y: &'a str,
    /// What a model without knowledge would do.
    guide: Option<[(f64, f64); 2]>,
    at: Option<(f64, f64)>,
}

fn curve(curve: &Curve<'_>, points: &[(f64, f64)]) -> Drawn<String> {
    let Curve {
        id,
        title,
        described,
        x,
        y,
        guide,
        at,
    } = *curve;
    plot(id, title, described, HALF, |drawing| {
        let mut chart = ChartBuilder::on(drawing)
            .margin_top(24)
            .margin_right(36)
            .x_label_area_size(100)
            .y_label_area_size(120)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)
            .map_err(said)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(label())
            .axis_desc_style(label())
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.1}"))
            .y_label_formatter(&|y| format!("{y:.1}"))
            .x_desc(x)
            .y_desc(y)
            .draw()
            .map_err(said)?;
        if let Some(guide) = guide {
            chart
                .draw_series(DashedLineSeries::new(guide, 10, 10, MUTED.stroke_width(2)))
                .map_err(said)?;
        }
        chart
            .draw_series(AreaSeries::new(points.iter().copied(), 0.0, BAR.mix(0.12)))
            .map_err(said)?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), BAR.stroke_width(5)))
            .map_err(said)?;
        let [left, right] = [0.0, 1.0].map(|x| chart.backend_coord(&(x, 0.0)).0);
        let [top, bottom] = [1.0, 0.0].map(|y| chart.backend_coord(&(0.0, y)).1);
        let (hidden, (px, py)) = match at {
            Some((x, y)) => (
                "",
                (
                    f64::from(left) + x * f64::from(right - left),
                    f64::from(bottom) - y * f64::from(bottom - top),
                ),
            ),
            None => (r#" visibility="hidden""#, (0.0, 0.0)),
        };
        let point = format!(
            r##"<circle id="{id}-point" class="point" cx="{px:.1}" cy="{py:.1}" r="13"{hidden} data-left="{left}" data-right="{right}" data-top="{top}" data-bottom="{bottom}"/>"##
        );
        Ok(Added {
            below: String::new(),
            above: point,
        })
    })
}

/// An axis of counts: logarithmic where the greatest would hide the others.
struct Counts {
    logarithmic: bool,
    bottom: f64,
    top: f64,
    labels: usize,
}

impl Counts {
    fn of(counts: impl Iterator<Item = u64>) -> Self {
        let (mut least, mut most) = (u64::MAX, 0);
        for count in counts.filter(|count| *count > 0) {
            (least, most) = (least.min(count), most.max(count));
        }
        if most <= least.saturating_mul(50) {
            return Self::linear(most);
        }
        let top = libm::log10(most as f64) + 0.1;
        Self {
            logarithmic: true,
            // A single row still has a bar.
            bottom: -0.25,
            top,
            labels: top.ceil() as usize + 1,
        }
    }

    fn linear(most: u64) -> Self {
        Self {
            logarithmic: false,
            bottom: 0.0,
            top: most.max(1) as f64 * 1.06,
            labels: 6,
        }
    }

    fn place(&self, count: u64) -> f64 {
        match self.logarithmic {
            true => libm::log10(count as f64),
            false => count as f64,
        }
    }

    /// Whole numbers alone.
    fn label(&self, place: f64) -> String {
        if (place - place.round()).abs() > 1e-6 || place < 0.0 {
            return String::new();
        }
        match self.logarithmic {
            true => thousands(libm::pow(10.0, place.round()) as u64),
            false => thousands(place.round() as u64),
        }
    }

    fn described(&self, what: &str) -> String {
        match self.logarithmic {
            true => format!("{what} (logarithmic)"),
            false => what.to_owned(),
        }
    }
}

/// Drawn at twice the size that it is shown at: plotters places on whole units.
const WIDE: (u32, u32) = (1920, 600);
const HALF: (u32, u32) = (920, 760);

// The style sheet replaces each of these by the theme's.
const INK: RGBColor = RGBColor(0x1F, 0x29, 0x33);
const MUTED: RGBColor = RGBColor(0x5A, 0x66, 0x72);
const GRID: RGBColor = RGBColor(0xE2, 0xE7, 0xEC);
const AXIS: RGBColor = RGBColor(0x9A, 0xA5, 0xB1);
const BAR: RGBColor = RGBColor(0x2F, 0x6D, 0xA8);
const FLAGGED: RGBColor = RGBColor(0xB3, 0x54, 0x1E);

const TEXT: f64 = 32.0;

fn label() -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&MUTED)
}

fn anchored(horizontal: HPos, color: RGBColor) -> TextStyle<'static> {
    let style: TextStyle<'static> = ("sans-serif", TEXT).into_font().color(&color);
    style.pos(Pos::new(horizontal, VPos::Center))
}

fn top_anchored() -> TextStyle<'static> {
    label().pos(Pos::new(HPos::Center, VPos::Top))
}

fn shortened(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    // The end of a file's name tells more than its beginning.
    let end: Vec<char> = text.chars().rev().take(longest - 1).collect();
    format!("…{}", end.into_iter().rev().collect::<String>())
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What a plot has beside what plotters draws: marks that the script moves.
#[derive(Default)]
struct Added {
    below: String,
    above: String,
}

/// Draws, with what the closure gives below and above it.
fn plot(
    id: &str,
    title: &str,
    described: &str,
    (width, height): (u32, u32),
    draw: impl FnOnce(&Drawing<'_>) -> Drawn<Added>,
) -> Drawn<String> {
    let mut drawn = String::new();
    let Added { below, above } = {
        let drawing = SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
        let added = draw(&drawing)?;
        drawing.present().map_err(said)?;
        added
    };
    let content = drawn
        .split_once('>')
        .and_then(|(_, rest)| rest.trim_end().strip_suffix("</svg>"))
        .ok_or("the picture has no frame")?;
    Ok(format!(
        r##"<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{id}-title {id}-described"><title id="{id}-title">{}</title><desc id="{id}-described">{}</desc>{below}{content}{above}</svg>"##,
        escaped(title),
        escaped(described),
    ))
}
