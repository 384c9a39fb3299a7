//! `report` and `profile` as programs: what the owner sees, that nobody else sees it, and that a browser shows the page
//! as it is meant, asks the network for nothing and runs no text of a file.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom_scoring::batch::is_fraud;
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::results::ResultReader;
use strongroom_testkit::fixtures::{peer, workspace_root};
use strongroom_testkit::process::{Finished, Program};

use support::{HEADER, Place, assert_never_printed, document, write_identity_model};

const ROWS: u64 = 4000;

/// Rows with their labels, scored for their owner.
fn scored(kind: &str) -> Place {
    let place = Place::new();
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    let generator = Generator {
        rows: ROWS,
        seed: 7,
        label: true,
        columns: Columns::Model,
    };
    let mut csv = Vec::new();
    generator.into_reader().read_to_end(&mut csv).unwrap();
    place.write("data.csv", csv);
    let score = ["score", "data.csv", "--results", "results.jsonl.enc"];
    let owner = ["--results-to", "owner.pem.pub.json", "--results-kind", kind];
    place.ok(&[&score[..], &owner, &["--results-features"]].concat());
    place
}

const REPORT: [&str; 4] = ["report", "results.jsonl.enc", "--identity", "owner.pem"];

fn report(place: &Place, more: &[&str]) -> Finished {
    place.ok(&[&REPORT[..], more].concat())
}

/// Every score of the results, with its label.
fn scores(place: &Place) -> Vec<(f64, bool)> {
    let args = [
        "decrypt",
        "results.jsonl.enc",
        "-o",
        "-",
        "--identity",
        "owner.pem",
    ];
    let opened = place.ok(&args).stdout;
    let mut reader = ResultReader::open(&opened[..]).unwrap();
    let generator = Generator {
        rows: ROWS,
        seed: 7,
        label: true,
        columns: Columns::Model,
    };
    let labels: Vec<bool> = generator.transactions().map(|row| row.is_fraud()).collect();
    std::iter::from_fn(|| reader.next_row().unwrap())
        .map(|row| {
            (
                row.probability,
                labels[usize::try_from(row.row).unwrap() - 1],
            )
        })
        .collect()
}

#[test]
fn short_form_is_wrong_or_shows_a_row() {
    let place = scored("all");
    let scores = scores(&place);
    let finished = report(&place, &["--labels", "data.csv", "--json"]);
    let numbers = document(&finished);
    let flagged = scores.iter().filter(|(score, _)| is_fraud(*score, 0.27));
    let caught = flagged.clone().filter(|(_, fraud)| *fraud).count();
    let frauds = scores.iter().filter(|(_, fraud)| *fraud).count();
    assert_eq!(numbers["summary"]["flagged"], flagged.clone().count());
    let evaluation = &numbers["evaluation"];
    assert_eq!(evaluation["frauds"], frauds);
    assert_eq!(evaluation["at_threshold"]["caught"], caught);
    assert_eq!(evaluation["at_threshold"]["missed"], frauds - caught);
    assert_eq!(
        evaluation["at_threshold"]["false_alarms"],
        flagged.count() - caught
    );
    let area = evaluation["roc_auc"].as_f64().unwrap();
    assert!((0.93..0.98).contains(&area), "{area}");
    let groups = numbers["groups"]["groups"].as_array().unwrap();
    assert_eq!(numbers["groups"]["by"], "100 rows");
    assert_eq!(groups.len(), 40);
    assert_eq!(groups[39]["name"], "3901–4000");
    assert_eq!(numbers["summary"]["rows_outside_training_range"], 0);
    assert_eq!(
        (&numbers["top"], &numbers["output"]),
        (&Value::Null, &Value::Null)
    );

    let finished = report(&place, &[]);
    let text = finished.stdout_text();
    assert!(text.starts_with("data.csv: 4,000 rows, "), "{text}");
    assert!(
        text.contains("0.95 to 1.00") && text.contains("--output report.html"),
        "{text}"
    );
    let first = |finished: &Finished| {
        let numbers = document(finished);
        let top = numbers["top"].as_array().unwrap().clone();
        top[0]["row"]["features"][0].to_string()
    };
    let shown = report(&place, &["--show-rows", "--top", "3", "--json"]);
    assert_eq!(document(&shown)["top"].as_array().unwrap().len(), 3);
    let feature = first(&shown);
    assert_never_printed(&[&feature], &finished);
    let text = report(&place, &["--show-rows", "--top", "1"]).stdout_text();
    assert!(
        text.contains(&format!("distance_from_last_transaction {feature}  (")),
        "{text}"
    );
    assert!(place.listing().iter().all(|name| !name.contains("html")));
}

#[test]
fn file_of_flagged_rows_claims_to_know_the_others() {
    let place = scored("flagged");
    let finished = report(
        &place,
        &["--labels", "data.csv", "--json", "--output", "report.html"],
    );
    let numbers = document(&finished);
    assert_eq!(numbers["evaluation"]["whole"], false);
    assert_eq!(numbers["evaluation"]["roc_auc"], Value::Null);
    // What was missed is known all the same: the labels have it.
    assert!(
        numbers["evaluation"]["at_threshold"]["recall"]
            .as_f64()
            .unwrap()
            > 0.6
    );
    let page = String::from_utf8(place.read("report.html")).unwrap();
    assert!(page.contains("Above its threshold counts are exact; below it they lie between"));
    assert!(page.contains("no area: rows below the threshold are not in the file"));
    assert!(page.contains("<td>0.1</td>") && page.contains(" to "));

    let place = scored("summary");
    let said = place.refused(&[&REPORT[..], &["--labels", "data.csv"]].concat());
    assert!(said.contains("--results-kind all"), "{said}");
    report(&place, &["--output", "report.html"]);
    let page = String::from_utf8(place.read("report.html")).unwrap();
    assert!(page.contains("The file has no rows to show."));
}

#[test]
fn rows_without_features_break_the_table() {
    let place = scored("all");
    let owner = [
        "--results-to",
        "owner.pem.pub.json",
        "--results-kind",
        "all",
    ];
    let score = [
        "score",
        "data.csv",
        "--force",
        "--results",
        "results.jsonl.enc",
    ];
    place.ok(&[&score[..], &owner].concat());
    report(&place, &["--output", "report.html", "--top", "2"]);
    let page = String::from_utf8(place.read("report.html")).unwrap();
    let table = page.split("<table class=\"top\">").nth(1).unwrap();
    let table = table.split("</table>").next().unwrap();
    assert_eq!(table.matches("<th ").count(), 2, "{table}");
    assert_eq!(table.matches("<td>").count(), 4, "{table}");
    assert!(page.contains("score with --results-features"));
    let text = report(&place, &["--show-rows", "--top", "1"]).stdout_text();
    assert!(text.contains("score with --results-features"), "{text}");
}

#[test]
fn page_is_written_where_nobody_asked_or_for_everybody() {
    let place = scored("all");
    let finished = report(&place, &["--output", "report.html"]);
    assert!(finished.stdout_text().contains("holds rows in plaintext"));
    let mode = place
        .join("report.html")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let page = place.read("report.html");
    let again = [&REPORT[..], &["--output", "report.html"]].concat();
    let said = place.refused(&again);
    assert!(said.contains("--force"), "{said}");
    place.ok(&[&again[..], &["--force"]].concat());
    assert_eq!(
        place.read("report.html"),
        page,
        "equal results make equal pages"
    );
    let piped = report(&place, &["--output", "-"]);
    assert_eq!(piped.stdout, page);

    let remote = [&REPORT[..], &["--output", "az://a/b/report.html"]].concat();
    assert!(place.refused(&remote).contains("a file of this machine"));

    // Nothing of a file that is cut, of another, or opened with another key.
    place.ok(&[
        "decrypt",
        "results.jsonl.enc",
        "-o",
        "plain",
        "--identity",
        "owner.pem",
    ]);
    let whole = String::from_utf8(place.read("plain")).unwrap();
    let cut = &whole[..whole.trim_end().rfind('\n').unwrap() + 1];
    place.write("cut", cut);
    let said = place.refused(&["report", "cut", "--output", "cut.html"]);
    assert!(said.contains("cut: they have no summary"), "{said}");
    place.refused(&["report", "data.csv", "--output", "data.html"]);
    place.ok(&["keygen", "other.pem", "--kind", "recipient"]);
    let other = [
        "report",
        "results.jsonl.enc",
        "--identity",
        "other.pem",
        "--output",
        "other.html",
    ];
    place.refused(&other);
}

#[test]
fn features_are_held_against_another_model() {
    let place = scored("all");
    write_identity_model(&place.join("identity"));
    let said = place.refused(&[&REPORT[..], &["--model", "identity"]].concat());
    assert!(said.contains("was scored by the model sha256:"), "{said}");
    place.write("data2.csv", "x\n0.9\n0.1\n");
    let score = [
        "score",
        "data2.csv",
        "--model",
        "identity",
        "--results",
        "r2.enc",
    ];
    place.ok(&[&score[..], &["--results-to", "owner.pem.pub.json"]].concat());
    place.ok(&[
        "report",
        "r2.enc",
        "--identity",
        "owner.pem",
        "--output",
        "r2.html",
    ]);
    let page = String::from_utf8(place.read("r2.html")).unwrap();
    assert!(page.contains("Without the model that scored them"));
}

#[test]
fn labels_that_fit_nothing_are_taken() {
    let place = scored("all");
    let refused = |labels: &str, more: &[&str]| {
        place.write("labels.csv", labels);
        place.refused(&[&REPORT[..], &["--labels", "labels.csv"], more].concat())
    };
    assert!(refused("row,class\n1,1\n", &[]).contains("--label-column"));
    assert!(refused("row,label\n1,maybe\n", &[]).contains("line 2"));
    assert!(refused("row,file,label\n1,other.csv,1\n", &[]).contains("names in the results"));
    place.write("labels.csv", "row,class\n1,1\n2,0\n");
    place.ok(&["keygen", "labels.key"]);
    place.ok(&["encrypt", "labels.csv", "--key", "labels.key"]);
    let labels = ["--labels", "labels.csv.enc", "--labels-key", "labels.key"];
    let finished = report(
        &place,
        &[&labels[..], &["--label-column", "class", "--json"]].concat(),
    );
    let evaluation = &document(&finished)["evaluation"];
    assert_eq!(
        (&evaluation["frauds"], &evaluation["unlabelled"]),
        (&json!(1), &json!(ROWS - 2))
    );
}

/// What a page must survive as the name of a file, of a key, of a column and of a data set.
const HOSTILE: &str = r#"</script><script>document.title="owned"</script><img src=x onerror="document.title='owned'">"#;

/// Results of two files with hostile names, in plaintext.
fn hostile_results() -> String {
    let other = format!("{HOSTILE}\u{202e}lmth\" autofocus onfocus=\"document.title='owned'");
    let row = |row: u64, probability: f64, file: &str| {
        json!({"kind": "row", "row": row, "probability": probability, "features": [1.0],
            "file": file, "key": format!("{HOSTILE}&amp;{row}")})
    };
    let mut histogram = [0; 20];
    (histogram[19], histogram[2]) = (2, 1);
    let lines = [
        json!({"kind": "header", "format": "strongroom-results/1", "input": HOSTILE, "model_digest": HOSTILE,
            "threshold": 0.5, "results": "all", "columns": [HOSTILE]}),
        row(1, 0.99, HOSTILE),
        row(2, 0.1, HOSTILE),
        json!({"kind": "input", "file": HOSTILE, "rows": 3, "flagged": 1, "bad_rows": 1, "bytes": 5}),
        row(1, 0.96, &other),
        json!({"kind": "input", "file": other, "rows": 1, "flagged": 1, "bad_rows": 0, "bytes": 4}),
        json!({"kind": "summary", "rows": 4, "bad_rows": 1, "bad_rows_by_reason": {"empty": 1},
            "first_bad_rows": [{"row": 3, "line": 4, "column": HOSTILE, "reason": "empty"}], "flagged": 2,
            "threshold": 0.5, "histogram": histogram, "max": 0.99, "mean": 0.5, "bytes": 9,
            "model_digest": HOSTILE, "rows_outside_training_range": 1, "outside_training_range": {HOSTILE: 1}}),
    ];
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn name_in_a_file_becomes_markup() {
    let place = Place::new();
    place.write("results", hostile_results());
    place.ok(&["report", "results", "--output", "report.html"]);
    place.write("labels", "row,label\n1,1\n");
    let said = place.refused(&["report", "results", "--labels", "labels"]);
    assert!(said.contains("need a column \"file\""), "{said}");
    let page = String::from_utf8(place.read("report.html")).unwrap();
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(
        !page.contains("<img")
            && !page.contains('\u{202e}')
            && !page.contains("autofocus onfocus=\"")
    );
    // Each place that shows a name shows it as it is.
    assert!(
        page.matches("&lt;img").count() >= 8,
        "{}",
        page.matches("&lt;img").count()
    );
    let terminal = place
        .ok(&["report", "results", "--show-rows"])
        .stdout_text();
    assert!(!terminal.contains('\u{202e}'));
    let policy = page
        .split("Content-Security-Policy\" content=\"")
        .nth(1)
        .unwrap();
    let policy = policy.split('"').next().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    // No element asks for anything, or runs anything.
    for tag in page
        .split('<')
        .skip(1)
        .map(|rest| rest.split('>').next().unwrap())
    {
        for attribute in [" src=", " href=", " style=", " onerror=", " onfocus="] {
            assert!(!tag.contains(attribute), "<{tag}>");
        }
    }
    for address in ["url(", "@import", "http:", "https:", "fetch("] {
        assert!(!page.contains(address), "{address}");
    }
}

#[test]
fn browser_shows_nothing_or_its_slider_is_dead() {
    let Some(chromium) = peer("chromium") else {
        return;
    };
    let place = scored("all");
    report(&place, &["--labels", "data.csv", "--output", "report.html"]);
    let page = place.join("report.html");
    let browser = Browser {
        chromium: &chromium,
        place: &place,
    };

    // The script ran and the counts follow the address: the page itself was written for 0.27.
    let finished = browser.run(&[
        "--dump-dom",
        &format!("file://{}#threshold=0.9", page.display()),
    ]);
    let said = finished.stderr_text();
    assert!(!said.contains("CONSOLE"), "{said}");
    let dom = finished.stdout_text();
    let scores = scores(&place);
    let above = |fraud: bool| {
        let wanted = |(score, is): &&(f64, bool)| *is == fraud && is_fraud(*score, 0.9);
        scores.iter().filter(wanted).count()
    };
    let (caught, alarms) = (above(true), above(false));
    let flagged = element(&dom, "flagged");
    assert!(
        flagged.starts_with(&format!("{} rows (", thousands(caught + alarms))),
        "{flagged}"
    );
    assert_eq!(element(&dom, "at"), "Above 0.9");
    assert_eq!(element(&dom, "caught"), thousands(caught));
    assert_eq!(element(&dom, "alarms"), thousands(alarms));
    assert!(!dom.contains("id=\"dial\" hidden"), "the slider is hidden");
    let written = String::from_utf8(place.read("report.html")).unwrap();
    assert_eq!(element(&written, "at"), "Above 0.27");
    assert_ne!(element(&written, "flagged"), flagged);

    // What a person sees is neither blank nor light where dark was asked for.
    let [light, dark] = ["1", "0"].map(|scheme| browser.screenshot(&page, scheme));
    for picture in [&light, &dark] {
        let shares = picture.shares();
        assert!(shares.len() > 100, "{} colours", shares.len());
        assert!(shares[0] < 0.95, "{} of the page is one colour", shares[0]);
    }
    let brightness = [light.brightness(), dark.brightness()];
    assert!(
        brightness[0] > 200.0 && brightness[1] < 70.0,
        "{brightness:?}"
    );
}

#[test]
fn browser_runs_a_name_or_asks_the_network() {
    let Some(chromium) = peer("chromium") else {
        return;
    };
    let place = Place::new();
    place.write("results", hostile_results());
    place.ok(&["report", "results", "--output", "report.html"]);
    let browser = Browser {
        chromium: &chromium,
        place: &place,
    };
    // A picture of the network in the page: the policy keeps the browser from asking for it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let html = String::from_utf8(place.read("report.html")).unwrap();
    let picture = format!("<main><img src=\"http://{address}/x.png\" alt=\"\">");
    let asking = html.replace("<main>", &picture);
    assert_ne!(asking, html);
    place.write("asking.html", &asking);
    let open = |name: &str| {
        let url = format!("file://{}#threshold=%3Cb%3E", place.join(name).display());
        browser.run(&["--dump-dom", &url])
    };
    let opened = open("asking.html");
    let said = opened.stderr_text();
    assert_eq!(said.matches("CONSOLE").count(), 1, "{said}");
    assert!(said.contains("Content Security Policy"), "{said}");
    assert!(listener.accept().is_err(), "the policy lets the page ask");
    let dom = opened.stdout_text();
    assert_eq!(dom.matches("<img").count(), 1);
    assert!(
        dom.contains("<title>Fraud scores of &lt;/script&gt;"),
        "{dom}"
    );
    assert!(element(&dom, "flagged").starts_with("2 rows"));
    assert_eq!(element(&dom, "at"), "Above 0.5");

    // Without its policy the same page does ask, so a request would have been seen.
    place.write(
        "free.html",
        asking.replace("Content-Security-Policy", "X-Nothing"),
    );
    open("free.html");
    assert!(
        listener.accept().is_ok(),
        "a request would not have been seen"
    );
}

struct Browser<'a> {
    chromium: &'a Path,
    place: &'a Place,
}

impl Browser<'_> {
    fn run(&self, args: &[&str]) -> Finished {
        let profile = tempfile::tempdir().unwrap();
        let own = format!("--user-data-dir={}", profile.path().display());
        let quiet = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
            --disable-background-networking --disable-component-update --disable-sync --disable-extensions \
            --hide-scrollbars --enable-logging=stderr --virtual-time-budget=4000 --timeout=30000";
        Program::new(self.chromium)
            .folder(self.place.path())
            .env("HOME", profile.path())
            .limit(Duration::from_secs(120))
            .args(quiet.split_whitespace().collect::<Vec<_>>().as_slice())
            .args([own.as_str()])
            .args(args)
            .run()
            .unwrap()
            .expect_success()
    }

    /// The page as a picture, in the browser's scheme of this number: 0 is dark.
    fn screenshot(&self, page: &Path, scheme: &str) -> Picture {
        let name = format!("{scheme}.png");
        let kept =
            std::env::var_os("STRONGROOM_SCREENSHOTS").map(|folder| Path::new(&folder).join(&name));
        let path = kept.unwrap_or_else(|| self.place.join(&name));
        self.run(&[
            "--window-size=1200,3200",
            &format!("--blink-settings=preferredColorScheme={scheme}"),
            &format!("--screenshot={}", path.display()),
            &format!("file://{}", page.display()),
        ]);
        Picture::read(&std::fs::read(path).unwrap())
    }
}

/// The text of the element with an id.
fn element<'a>(dom: &'a str, id: &str) -> &'a str {
    let from = dom.split(&format!("id=\"{id}\">")).nth(1);
    from.unwrap_or_else(|| panic!("no {id} in {dom}"))
        .split('<')
        .next()
        .unwrap()
}

fn thousands(number: usize) -> String {
    match number {
        0..=999 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

/// The pixels of a PNG, three bytes each.
struct Picture(Vec<[u8; 3]>);

impl Picture {
    /// Reads what a browser writes: eight bits a channel, three or four channels, not interlaced (PNG 3, 7 to 9).
    fn read(png: &[u8]) -> Self {
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        let (width, channels) = (
            number(16),
            match png[25] {
                2 => 3,
                6 => 4,
                other => panic!("colour type {other}"),
            },
        );
        assert_eq!((png[24], png[28]), (8, 0));
        let (mut at, mut packed) = (8, Vec::new());
        while at < png.len() {
            let length = number(at);
            if &png[at + 4..at + 8] == b"IDAT" {
                packed.extend_from_slice(&png[at + 8..at + 8 + length]);
            }
            at += length + 12;
        }
        let mut raw = Vec::new();
        flate2::read::ZlibDecoder::new(&packed[..])
            .read_to_end(&mut raw)
            .unwrap();
        let line = width * channels;
        let mut above = vec![0_u8; line];
        let mut pixels = Vec::new();
        for filtered in raw.chunks_exact(line + 1) {
            let mut here = filtered[1..].to_vec();
            for at in 0..line {
                let left = if at < channels {
                    0
                } else {
                    here[at - channels]
                };
                let corner = if at < channels {
                    0
                } else {
                    above[at - channels]
                };
                let (a, b, c) = (i32::from(left), i32::from(above[at]), i32::from(corner));
                let predicted = match filtered[0] {
                    0 => 0,
                    1 => a,
                    2 => b,
                    3 => (a + b) / 2,
                    _ => *[a, b, c]
                        .iter()
                        .min_by_key(|value| (a + b - c - **value).abs())
                        .unwrap(),
                };
                here[at] = here[at].wrapping_add(u8::try_from(predicted).unwrap());
            }
            pixels.extend(
                here.chunks_exact(channels)
                    .map(|pixel| [pixel[0], pixel[1], pixel[2]]),
            );
            above = here;
        }
        assert!(pixels.len() > 100_000);
        Self(pixels)
    }

    /// The share of each colour, the commonest first.
    fn shares(&self) -> Vec<f64> {
        let mut counts = std::collections::HashMap::new();
        self.0
            .iter()
            .for_each(|pixel| *counts.entry(pixel).or_insert(0_u32) += 1);
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
            .into_iter()
            .map(|count| f64::from(count) / self.0.len() as f64)
            .collect()
    }

    fn brightness(&self) -> f64 {
        let sum: u64 = self
            .0
            .iter()
            .flatten()
            .map(|&channel| u64::from(channel))
            .sum();
        sum as f64 / (3 * self.0.len()) as f64
    }
}

#[test]
fn profile_is_wrong_or_shows_few_rows() {
    let place = Place::new();
    place.write("data.csv", support::transactions(5000));
    let numbers = document(&place.ok(&[
        "profile",
        "data.csv",
        "--json",
        "--fail-on-drift",
        "moderate",
    ]));
    assert_eq!(
        (&numbers["rows"], &numbers["bad_rows"]),
        (&json!(5000), &json!(0))
    );
    assert_eq!(numbers["drift"], "stable");
    let column = &numbers["columns"][3];
    assert_eq!(column["name"], "used_pin_number");
    assert_eq!((&column["min"], &column["max"]), (&json!(0.0), &json!(1.0)));
    assert!((0.08..0.12).contains(&column["mean"].as_f64().unwrap()));
    let text = place.ok(&["profile", "data.csv"]).stdout_text();
    assert!(text.contains("stable") && text.contains("median"), "{text}");

    place.write("more.csv", support::transactions(100));
    let both = document(&place.ok(&["profile", "data.csv", "more.csv", "--json"]));
    assert_eq!(both["rows"], 5100);

    // Bad rows are counted by column, and do not stop it.
    let bad = format!(
        "{HEADER}{}1.0,,0.0,0.0,1.0\n1.0,x4111,0.0,0.0,1.0\n1.0\n",
        "98765.43215,2.0,0.0,0.0,1.0\n".repeat(12)
    );
    place.write("few.csv", bad);
    let finished = place.ok(&["profile", "few.csv", "--json"]);
    let numbers = document(&finished);
    let column = &numbers["columns"][1];
    assert_eq!(
        [
            &numbers["rows"],
            &column["values"],
            &column["nulls"],
            &column["bad"]
        ]
        .map(|n| n.as_u64().unwrap()),
        [15, 12, 1, 1]
    );
    assert_eq!(
        (&column["min"], &numbers["withheld_columns"]),
        (&Value::Null, &json!(5))
    );
    assert_never_printed(&["98765.43215"], &finished);
    assert!(!support::printed(&finished).contains("4111"));
    let shown = place.ok(&["profile", "few.csv", "--json", "--reveal-few"]);
    assert_eq!(document(&shown)["columns"][0]["max"], 98765.43215);
    let said = place.refused(&["profile", "few.csv", "--write", "profile.json"]);
    assert!(said.contains("too few"), "{said}");
}

#[test]
fn drift_goes_unnoticed_or_fails_unasked() {
    let place = Place::new();
    let mut csv = HEADER.to_owned();
    for at in 0..3000 {
        csv.push_str(&format!("{}.5,1.0,1.0,0.0,1.0\n", 1_000_000 + at));
    }
    place.write("moved.csv", csv);
    let numbers = document(&place.ok(&["profile", "moved.csv", "--json"]));
    assert_eq!(numbers["drift"], "strong");
    assert_eq!(numbers["rows_outside_training_range"], 3000);
    let finished = place.run(&["profile", "moved.csv", "--fail-on-drift", "strong"]);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stdout_text().contains("strong"));
    let scored = place.ok(&["score", "moved.csv", "--json"]);
    assert_eq!(document(&scored)["rows_outside_training_range"], 3000);
    let text = place.ok(&["score", "moved.csv"]).stdout_text();
    assert!(
        text.contains("outside the range that the model was trained on: 3000"),
        "{text}"
    );
}

#[test]
fn profile_of_another_model_or_of_none() {
    let place = Place::new();
    write_identity_model(&place.join("identity"));
    place.write(
        "data.csv",
        format!("x\n{}", "0.25\n0.5\n0.75\n".repeat(100)),
    );
    let with = ["profile", "data.csv", "--model", "identity"];
    let text = place.ok(&with).stdout_text();
    assert!(text.contains("no profile.json"), "{text}");
    let said = place.refused(&[&with[..], &["--fail-on-drift", "strong"]].concat());
    assert!(said.contains("--write FOLDER/profile.json"), "{said}");
    let before = document(&place.ok(&["model", "show", "--json", "--model", "identity"]));
    assert_eq!(before["profile_rows"], Value::Null);
    place.ok(&[&with[..], &["--write", "identity/profile.json"]].concat());
    let mode = place
        .join("identity/profile.json")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let after = document(&place.ok(&["model", "show", "--json", "--model", "identity"]));
    assert_eq!(after["profile_rows"], 300);
    assert_ne!(after["digest"], before["digest"]);
    let numbers = document(&place.ok(&[&with[..], &["--json"]].concat()));
    assert_eq!(numbers["drift"], "stable");
    place.refused(&[&with[..], &["--write", "identity/profile.json"]].concat());
    place.ok(&["model", "pack", "identity", "-o", "identity.tar"]);
    let packed = document(&place.ok(&["model", "show", "--json", "--model", "identity.tar"]));
    assert_eq!(packed["digest"], after["digest"]);
    place.write(
        "identity/profile.json",
        r#"{"format":1,"rows":0,"columns":[]}"#,
    );
    let said = place.refused(&["score", "data.csv", "--model", "identity"]);
    assert!(said.contains("profile.json: its columns"), "{said}");
}

#[test]
fn command_of_the_document_does_not_work_as_written() {
    let place = Place::new();
    let blocks = support::shell_blocks("docs/report.md");
    assert!(blocks.len() >= 4, "{}", blocks.len());
    // The reader's own model, and rows that it was trained on.
    std::fs::create_dir(place.join("fraud-model")).unwrap();
    for name in ["model.onnx", "preprocessing.json"] {
        std::fs::copy(
            workspace_root().join("models/fraud").join(name),
            place.join("fraud-model").join(name),
        )
        .unwrap();
    }
    place.write("training.csv", support::transactions(500));
    let script = format!("set -euo pipefail\n{}", blocks.concat());
    let finished = place.script(&script);
    let finished = finished
        .limit(Duration::from_secs(120))
        .run()
        .unwrap()
        .expect_success();
    let said = finished.stdout_text();
    for text in ["ROC AUC", "stable", "holds rows in plaintext"] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
    assert!(place.listing().contains(&"report.html".to_owned()));
}
