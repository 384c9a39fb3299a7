//! `strongroom audit prune`: the oldest entries go, as far as the broker's configuration lets them.

use serde_json::json;
use strongroom_client::admin::AdminClient;
use time::Date;

use super::report::parse_day;
use crate::connect::block_on;
use crate::outcome::Outcome;

/// Remove the oldest entries, which a broker does by itself once a day when its configuration says for how long they are
/// kept
///
/// Nobody removes what is younger than keep_days in the `audit` table of the broker's configuration, and without that
/// setting nothing is removed at all. Entries go in bundles of 256; their hashes stay, so the rest verifies, and what was
/// removed is an entry itself. Export the record first: what is gone is gone.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Only those from before this day, such as 2027-01-01 (UTC) [default: all that are older than keep_days]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    before: Option<Date>,
}

pub(super) fn run(client: &AdminClient, args: &Args) -> anyhow::Result<Outcome> {
    let before = args.before.map(|day| {
        let begins = day.midnight().assume_utc().unix_timestamp();
        u64::try_from(begins).unwrap_or_default()
    });
    let (entries, first) = block_on(client.prune_audit(before))??;
    let text = match entries {
        0 => format!("Nothing was removed: the record is there from entry {first} on."),
        _ => format!(
            "Removed {entries} entries: the record is there from entry {first} on, and verifies as before."
        ),
    };
    Ok(
        Outcome::new(text, json!({ "entries": entries, "first": first }))
            .next("strongroom audit verify"),
    )
}
