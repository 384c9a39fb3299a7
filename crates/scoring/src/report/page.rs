//! The page: HTML with its style and its script inside, both named by their digests in the page's
//! own Content-Security-Policy, which allows nothing else and no request. It can be read without the
//! script, which only moves the threshold. Every text that comes from a file is escaped, and stands
//! in elements alone: in no address, no attribute and no script.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Confusion, Deviation, Evaluation, Report, Side, Threshold, TopRow, plot};
use crate::batch::Results;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Groups that have a line in the table.
const MOST_GROUPS: usize = 500;

pub(super) fn page(report: &Report) -> Result<String, String> {
    let mut html = String::with_capacity(256 * 1024);
    let input = escaped(&report.header.input);
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        source(STYLE),
        source(SCRIPT)
    );
    let mut write = |part: String| html.push_str(&part);
    write(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <meta name=\"robots\" content=\"noindex\">\n\
         <title>Fraud scores of {input}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    ));
    write(format!(
        "<header><p class=\"keep\" role=\"note\"><strong>Plaintext.</strong> This page holds rows and scores. Keep it as you keep the data.</p>\n\
         <h1>Fraud scores</h1>\n<p class=\"of\">{input}</p></header>\n<main>\n"
    ));
    write(figures(report));
    write(threshold(report));
    write(format!(
        "<section aria-labelledby=\"h-scores\"><h2 id=\"h-scores\">Rows by score</h2>\n<figure>{}</figure></section>\n",
        plot::scores(report)?
    ));
    if let Some(evaluation) = &report.evaluation {
        write(curves(report, evaluation)?);
    }
    write(groups(report)?);
    write(top(report));
    write(left_out(report));
    write(facts(report));
    write(format!(
        "</main>\n<script type=\"application/json\" id=\"thresholds\">{}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        script_data(report)
    ));
    Ok(html)
}

/// The numbers at a glance.
fn figures(report: &Report) -> String {
    let summary = &report.summary;
    let mut figures = vec![
        ("Rows", thousands(summary.rows), String::new()),
        (
            "Flagged",
            thousands(summary.flagged),
            format!(
                "{} of the scored",
                percent(summary.flagged, summary.scored())
            ),
        ),
        ("Skipped", thousands(summary.bad_rows), String::new()),
    ];
    if let Some(outside) = summary.rows_outside_training_range {
        let note = format!("{} of the rows", percent(outside, summary.rows));
        figures.push(("Outside training range", thousands(outside), note));
    }
    let score = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |v| format!("{v:.4}"));
    figures.push(("Mean score", score(summary.mean), String::new()));
    figures.push(("Greatest score", score(summary.max), String::new()));
    let figures: String = figures
        .into_iter()
        .map(|(name, value, note)| {
            let note = match note.is_empty() {
                true => note,
                false => format!("<dd class=\"note\">{note}</dd>"),
            };
            format!("<div><dt>{name}</dt><dd>{value}</dd>{note}</div>")
        })
        .collect();
    format!("<dl class=\"figures\">{figures}</dl>\n")
}

/// The slider, what it changes, and a table that says the same without it.
fn threshold(report: &Report) -> String {
    let own = report.header.threshold;
    let at = report
        .thresholds
        .iter()
        .position(|t| t.at == own)
        .unwrap_or(0);
    let last = report.thresholds.len().saturating_sub(1);
    let known = match report.header.results {
        Results::All => "Counts are exact: the file has every row.",
        Results::Flagged => {
            "The file has the flagged rows alone. Above its threshold counts are exact; below it they lie between two numbers, which the histogram of the summary gives."
        }
        Results::Summary => {
            "The file has no rows. Away from its threshold counts lie between two numbers, which the histogram of the summary gives."
        }
    };
    let flagged = report
        .at_its_threshold()
        .map_or_else(String::new, |t| flagged_text(t, report));
    let mut html = format!(
        "<section aria-labelledby=\"h-threshold\"><h2 id=\"h-threshold\">Threshold</h2>\n\
         <div class=\"dial\" id=\"dial\" hidden>\n\
         <label for=\"slider\">Flag rows above</label>\n\
         <input type=\"range\" id=\"slider\" min=\"0\" max=\"{last}\" step=\"1\" value=\"{at}\" aria-describedby=\"known\">\n\
         <input type=\"number\" id=\"number\" min=\"0\" max=\"1\" step=\"any\" value=\"{own}\" aria-label=\"Threshold as a number\">\n\
         <button type=\"button\" id=\"own\">{own}, the file’s own</button>\n</div>\n\
         <p class=\"flagged\" role=\"status\"><span id=\"at\">Above {own}</span>: <strong id=\"flagged\">{flagged}</strong></p>\n\
         <p class=\"note\" id=\"known\">{known} A score of exactly 1 is flagged at every threshold.</p>\n"
    );
    if let Some(evaluation) = &report.evaluation {
        html.push_str(&confusion(report, evaluation));
    }
    html.push_str("<details><summary>Flagged rows at other thresholds</summary>\n<table><thead><tr><th scope=\"col\">Above</th><th scope=\"col\">Flagged rows</th></tr></thead><tbody>\n");
    let shown = [
        0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999,
    ];
    let rows = report
        .thresholds
        .iter()
        .filter(|t| t.at == own || shown.contains(&t.at));
    for threshold in rows {
        let mark = if threshold.at == own {
            " (the file’s own)"
        } else {
            ""
        };
        let counts = flagged_text(threshold, report);
        write_to(
            &mut html,
            format!(
                "<tr><td>{}{mark}</td><td>{counts}</td></tr>\n",
                threshold.at
            ),
        );
    }
    html.push_str("</tbody></table></details></section>\n");
    html
}

fn flagged_text(threshold: &Threshold, report: &Report) -> String {
    let scored = report.summary.scored();
    match (threshold.least, threshold.most) {
        (least, most) if least == most => {
            format!("{} rows ({})", thousands(least), percent(least, scored))
        }
        (least, most) => format!(
            "{} to {} rows ({} to {})",
            thousands(least),
            thousands(most),
            percent(least, scored),
            percent(most, scored)
        ),
    }
}

/// What flagging does, by the labels.
fn confusion(report: &Report, evaluation: &Evaluation) -> String {
    let hits = report
        .at_its_threshold()
        .and_then(|threshold| threshold.hits);
    let counted = hits.map(|hits| Confusion::new(hits, evaluation));
    let number = |pick: fn(&Confusion) -> u64| {
        counted
            .as_ref()
            .map_or_else(unknown, |c| thousands(pick(c)))
    };
    let rate = |pick: fn(&Confusion) -> Option<f64>| {
        counted
            .as_ref()
            .and_then(pick)
            .map_or_else(unknown, |rate| format!("{:.2} %", rate * 100.0))
    };
    let honest = evaluation.honest;
    format!(
        "<table class=\"confusion\"><caption>What the labels say at this threshold</caption>\n\
         <thead><tr><th scope=\"col\">Label</th><th scope=\"col\">Flagged</th><th scope=\"col\">Not flagged</th><th scope=\"col\">All</th></tr></thead>\n\
         <tbody><tr><th scope=\"row\">Fraud</th><td id=\"caught\">{}</td><td id=\"missed\">{}</td><td>{}</td></tr>\n\
         <tr><th scope=\"row\">Honest</th><td id=\"alarms\">{}</td><td id=\"passed\">{}</td><td>{}</td></tr></tbody></table>\n\
         <dl class=\"rates\"><div><dt>Precision</dt><dd id=\"precision\">{}</dd></div><div><dt>Recall</dt><dd id=\"recall\">{}</dd></div><div><dt>False alarms among honest</dt><dd id=\"alarm-rate\">{}</dd></div></dl>\n",
        number(|c| c.caught),
        number(|c| c.missed),
        thousands(evaluation.frauds),
        number(|c| c.false_alarms),
        number(|c| c.honest_passed),
        thousands(honest),
        rate(Confusion::precision),
        rate(Confusion::recall),
        rate(Confusion::false_alarm_rate),
    )
}

fn unknown() -> String {
    "not known".to_owned()
}

fn curves(report: &Report, evaluation: &Evaluation) -> Result<String, String> {
    let area = match evaluation.roc_auc {
        Some(area) if evaluation.roc_auc_within > 0.0005 => format!(
            "area {area:.3} ± {:.3}, as scores close together count as equal",
            evaluation.roc_auc_within
        ),
        Some(area) => format!("area {area:.4}"),
        None if evaluation.whole => "no area: one kind of label is missing".to_owned(),
        None => "no area: rows below the threshold are not in the file".to_owned(),
    };
    let average = match evaluation.average_precision {
        Some(average) => format!("average precision {average:.4}"),
        None => "no average".to_owned(),
    };
    let left_out = match evaluation.unlabelled {
        0 => String::new(),
        rows => format!(
            " {} rows of the file have no label and are left out.",
            thousands(rows)
        ),
    };
    let cut = match evaluation.whole {
        true => "",
        false => {
            " Labelled rows that are not in the file count as not flagged, skipped ones among them."
        }
    };
    Ok(format!(
        "<section aria-labelledby=\"h-curves\"><h2 id=\"h-curves\">How well scores tell fraud</h2>\n\
         <div class=\"pair\"><figure>{}<figcaption><strong>ROC</strong>, {area}</figcaption></figure>\n\
         <figure>{}<figcaption><strong>Precision over recall</strong>, {average}</figcaption></figure></div>\n\
         <p class=\"note\">The dot is the threshold. The dashed line is what guessing would give.{left_out}{cut}</p></section>\n",
        plot::roc(report, evaluation)?,
        plot::precision_recall(report, evaluation)?,
    ))
}

fn groups(report: &Report) -> Result<String, String> {
    let Some(groups) = &report.groups else {
        return Ok(String::new());
    };
    let by = match groups.by {
        super::GroupedBy::File => "file",
        super::GroupedBy::Hours(_) => "hour",
        super::GroupedBy::Rows(_) => "row number",
    };
    let has_all = report.header.results == Results::All || groups.by == super::GroupedBy::File;
    let mut html = format!(
        "<section aria-labelledby=\"h-groups\"><h2 id=\"h-groups\">Flagged rows by {by}</h2>\n<figure>{}</figure>\n",
        plot::groups(groups)?
    );
    if matches!(groups.by, super::GroupedBy::File) && groups.groups.len() > plot::MOST_BARS {
        write_to(
            &mut html,
            format!(
                "<p class=\"note\">The {} files with the most flagged rows, of {}.</p>\n",
                plot::MOST_BARS,
                thousands(groups.groups.len() as u64)
            ),
        );
    }
    let more = match has_all {
        true => "<th scope=\"col\">Rows</th><th scope=\"col\">Share</th>",
        false => "",
    };
    write_to(
        &mut html,
        format!(
            "<details><summary>As a table</summary>\n<table><thead><tr><th scope=\"col\">{}</th><th scope=\"col\">Flagged</th>{more}</tr></thead><tbody>\n",
            escaped(&groups.by.heading())
        ),
    );
    for group in groups.groups.iter().take(MOST_GROUPS) {
        let more = match has_all {
            true => format!(
                "<td>{}</td><td>{}</td>",
                thousands(group.rows),
                percent(group.flagged, group.rows)
            ),
            false => String::new(),
        };
        write_to(
            &mut html,
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td>{more}</tr>\n",
                escaped(&group.name),
                thousands(group.flagged)
            ),
        );
    }
    html.push_str("</tbody></table></details>\n");
    let unlisted = groups.groups.len().saturating_sub(MOST_GROUPS);
    if unlisted > 0 || groups.others > 0 {
        write_to(
            &mut html,
            format!(
                "<p class=\"note\">{} further files are not in the table; {} rows are in files that are not told apart.</p>\n",
                thousands(unlisted as u64),
                thousands(groups.others)
            ),
        );
    }
    html.push_str("</section>\n");
    Ok(html)
}

fn top(report: &Report) -> String {
    let mut html =
        "<section aria-labelledby=\"h-top\"><h2 id=\"h-top\">The most suspicious rows</h2>\n"
            .to_owned();
    if report.top.is_empty() {
        html.push_str("<p class=\"note\">The file has no rows to show.</p></section>\n");
        return html;
    }
    let any = |has: fn(&TopRow) -> bool| report.top.iter().any(has);
    let (files, keys) = (
        any(|row| row.row.file.is_some()),
        any(|row| row.row.key.is_some()),
    );
    let labels = report.evaluation.is_some();
    html.push_str("<div class=\"wide\" role=\"region\" aria-labelledby=\"h-top\" tabindex=\"0\"><table class=\"top\"><thead><tr>");
    let heads = [
        (files, " class=\"name\"", "File"),
        (true, "", "Row"),
        (keys, " class=\"name\"", "Key"),
        (true, "", "Score"),
        (labels, " class=\"name\"", "Label"),
    ];
    for (_, class, head) in heads.into_iter().filter(|(there, ..)| *there) {
        write_to(&mut html, format!("<th scope=\"col\"{class}>{head}</th>"));
    }
    for column in &report.header.columns {
        write_to(
            &mut html,
            format!("<th scope=\"col\">{}</th>", breakable(column)),
        );
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in &report.top {
        html.push_str(&top_row(row, [files, keys, labels]));
    }
    html.push_str("</tbody></table></div>\n");
    html.push_str(match any(|row| !row.deviations.is_empty()) {
        true => "<p class=\"note\">Below each value: how many standard deviations it is from the mean of the rows that trained the model, and whether it is outside their range.</p>",
        false => "<p class=\"note\">Without the model that scored them, it is not known how far these values are from those that trained it.</p>",
    });
    html.push_str("</section>\n");
    html
}

fn top_row(top: &TopRow, [files, keys, labels]: [bool; 3]) -> String {
    let row = &top.row;
    let text = |text: &Option<String>| text.as_deref().map(escaped).unwrap_or_default();
    let mut html = "<tr>".to_owned();
    if files {
        write_to(
            &mut html,
            format!("<td class=\"name\">{}</td>", text(&row.file)),
        );
    }
    write_to(&mut html, format!("<td>{}</td>", thousands(row.row)));
    if keys {
        let short = row.key.as_ref().is_none_or(|key| key.chars().count() <= 28);
        let class = if short { "name short" } else { "name" };
        write_to(
            &mut html,
            format!("<td class=\"{class}\">{}</td>", text(&row.key)),
        );
    }
    write_to(
        &mut html,
        format!("<td><strong>{}</strong></td>", score(row.probability)),
    );
    if labels {
        let label = match top.label {
            Some(true) => "fraud",
            Some(false) => "honest",
            None => "",
        };
        write_to(&mut html, format!("<td class=\"name\">{label}</td>"));
    }
    for (at, value) in row.features.iter().enumerate() {
        write_to(
            &mut html,
            format!(
                "<td>{}{}</td>",
                number(*value),
                match top.deviations.get(at) {
                    Some(deviation) => far(deviation),
                    None => String::new(),
                }
            ),
        );
    }
    html.push_str("</tr>\n");
    html
}

/// How far a value is, in words as much as in colour.
fn far(deviation: &Deviation) -> String {
    let distance = deviation.deviations;
    let class = match distance.abs() {
        d if deviation.outside.is_some() || d >= 6.0 => "far3",
        d if d >= 3.0 => "far2",
        _ => "far1",
    };
    let outside = match deviation.outside {
        Some(Side::Above) => ", above training",
        Some(Side::Below) => ", below training",
        None => "",
    };
    format!("<span class=\"far {class}\">{distance:+.1} σ{outside}</span>")
}

/// Rows without a score, and columns outside the training range.
fn left_out(report: &Report) -> String {
    let summary = &report.summary;
    let mut html = String::new();
    if !summary.outside_training_range.is_empty() {
        html.push_str("<section aria-labelledby=\"h-outside\"><h2 id=\"h-outside\">Outside the training range</h2>\n<table><thead><tr><th scope=\"col\">Column</th><th scope=\"col\">Rows</th></tr></thead><tbody>\n");
        for (column, rows) in &summary.outside_training_range {
            write_to(
                &mut html,
                format!(
                    "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
                    escaped(column),
                    thousands(*rows)
                ),
            );
        }
        html.push_str("</tbody></table><p class=\"note\">The model was trained on no such values, and its scores of these rows are guesses.</p></section>\n");
    }
    if summary.bad_rows > 0 {
        html.push_str("<section aria-labelledby=\"h-skipped\"><h2 id=\"h-skipped\">Skipped rows</h2>\n<table><thead><tr><th scope=\"col\">Why</th><th scope=\"col\">Rows</th></tr></thead><tbody>\n");
        for (reason, rows) in &summary.bad_rows_by_reason {
            write_to(
                &mut html,
                format!(
                    "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
                    escaped(&reason.to_string()),
                    thousands(*rows)
                ),
            );
        }
        html.push_str("</tbody></table>\n<p class=\"note\">The first of them:</p><ul>\n");
        for row in &summary.first_bad_rows {
            write_to(
                &mut html,
                format!("<li>{}</li>\n", escaped(&row.to_string())),
            );
        }
        html.push_str("</ul></section>\n");
    }
    html
}

fn facts(report: &Report) -> String {
    let header = &report.header;
    let rows = match header.results {
        Results::All => "every row that has a score",
        Results::Flagged => "the flagged rows",
        Results::Summary => "none, the summary alone",
    };
    format!(
        "<section aria-labelledby=\"h-facts\"><h2 id=\"h-facts\">About this report</h2>\n<dl class=\"facts\">\
         <div><dt>Data set</dt><dd>{}</dd></div><div><dt>Model</dt><dd><code>{}</code></dd></div>\
         <div><dt>Threshold</dt><dd>{}</dd></div><div><dt>Rows in the results</dt><dd>{rows}</dd></div>\
         <div><dt>Bytes of the data set</dt><dd>{}</dd></div></dl></section>\n",
        escaped(&header.input),
        escaped(&header.model_digest),
        header.threshold,
        thousands(report.summary.bytes),
    )
}

/// The numbers that the script shows: nothing of it is text from a file.
fn script_data(report: &Report) -> String {
    let column = |pick: fn(&Threshold) -> Option<f64>| -> Vec<Option<f64>> {
        report.thresholds.iter().map(pick).collect()
    };
    let hits = report.evaluation.as_ref().map(|evaluation| {
        json!({
            "frauds": evaluation.frauds,
            "honest": evaluation.honest,
            "caught": column(|t| t.hits.map(|hits| hits.caught as f64)),
            "alarms": column(|t| t.hits.map(|hits| hits.false_alarms as f64)),
        })
    });
    let data = json!({
        "own": report.header.threshold,
        "scored": report.summary.scored(),
        "at": column(|t| Some(t.at)),
        "least": column(|t| Some(t.least as f64)),
        "most": column(|t| Some(t.most as f64)),
        "labels": hits,
    });
    // Numbers and names of ours; should that ever change, no text can end the element.
    data.to_string().replace('<', "\\u003c")
}

/// The digest by which a policy names what is inline.
fn source(text: &str) -> String {
    format!(
        "sha256-{}",
        STANDARD.encode(digest(&SHA256, text.as_bytes()))
    )
}

fn write_to(html: &mut String, part: String) {
    html.push_str(&part);
}

/// Text of others, in an element: no markup, and nothing that hides or turns around what is written.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

/// Text of others with what cannot be seen by its number, and cut where it is no name any more.
pub(super) fn visible(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut visible = String::with_capacity(text.len().min(4 * LONGEST));
    for (at, c) in text.chars().enumerate() {
        if at == LONGEST {
            visible.push('…');
            break;
        }
        match c {
            ' '..='~' => visible.push(c),
            _ => match c.escape_debug() {
                shown if shown.clone().count() > 1 => visible.extend(c.escape_unicode()),
                shown => visible.extend(shown),
            },
        }
    }
    visible
}

/// As [`escaped`], with places where a long name may break.
fn breakable(name: &str) -> String {
    escaped(name).replace('_', "_<wbr>")
}

/// A score as the model gave it where six digits would make it a certainty.
fn score(probability: f64) -> String {
    let rounded = format!("{probability:.6}");
    match rounded.as_str() {
        "1.000000" if probability < 1.0 => format!("{}", probability as f32),
        _ => rounded,
    }
}

/// A feature: whole where it is whole, else six digits that count.
fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    let digits = libm::log10(value.abs()).floor();
    if (-4.0..6.0).contains(&digits) {
        let places = (5.0 - digits).clamp(0.0, 9.0) as usize;
        return format!("{value:.places$}");
    }
    format!("{value:.5e}")
}

fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let share = 100.0 * part as f64 / whole as f64;
    match share {
        s if s >= 10.0 => format!("{s:.1} %"),
        s if s >= 0.01 => format!("{s:.2} %"),
        s => format!("{s:.1e} %"),
    }
}

/// Prints 1234567 as 1,234,567.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
