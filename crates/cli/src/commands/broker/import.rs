//! `strongroom broker import`: what an upstream broker kept in plaintext, stored in a running broker by its admin.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use strongroom_broker::sources::import::Import;
use strongroom_client::admin::AdminClient;
use strongroom_wire::resource::ResourcePath;

use crate::connect::{AdminArgs, block_on};
use crate::outcome::Outcome;

/// The broker's own limit is lower or equal; this one bounds memory here.
const MAX_SECRET: usize = 16 * 1024 * 1024;

/// Take over the secrets of a Trustee: from the files of its LocalFs or LocalJson store into a running broker
///
/// Each is stored as `strongroom resource put` stores it, by an admin and with an entry in the record. What the broker
/// has already is left as it is, so a second run takes only what is new. Policies and reference values are not taken.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  strongroom broker import --from-localfs /opt/confidential-containers/storage/local_fs --dry-run
  strongroom broker import --from-localjson /opt/confidential-containers/storage/local_json/repository")]
pub(super) struct Args {
    #[command(flatten)]
    from: From,

    /// Say what would be stored, and store nothing; no broker is asked.
    #[arg(long)]
    dry_run: bool,

    /// Store a new version of what the broker has already.
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct From {
    /// A LocalFs store: the folder that Trustee's configuration names, or the `repository` folder in it.
    #[arg(long, value_name = "DIR")]
    from_localfs: Option<PathBuf>,

    /// A LocalJson store: the file `repository` in the folder that Trustee's configuration names, or that folder.
    #[arg(long, value_name = "FILE")]
    from_localjson: Option<PathBuf>,
}

impl From {
    fn as_options(&self) -> String {
        match (&self.from_localfs, &self.from_localjson) {
            (Some(dir), _) => format!("--from-localfs '{}'", dir.display()),
            (None, Some(file)) => format!("--from-localjson '{}'", file.display()),
            (None, None) => String::new(),
        }
    }
}

/// What became of one resource.
enum Fate {
    Stored(usize),
    There,
    Failed(String),
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let import = match (&args.from.from_localfs, &args.from.from_localjson) {
        (Some(dir), _) => Import::from_local_fs(dir)?,
        (None, Some(file)) => Import::from_local_json(file)?,
        (None, None) => bail!("name a store with --from-localfs or --from-localjson"),
    };
    let client = match args.dry_run {
        true => None,
        false => Some(args.admin.client()?),
    };
    let there = client.as_ref().map_or(Ok(Vec::new()), paths_of)?;
    ensure!(
        import.paths().next().is_some() || !import.skipped().is_empty(),
        "there is nothing in {}: name the folder or file that holds Trustee's `repository`",
        import.base().display()
    );
    let mut fates = Vec::new();
    for path in import.paths() {
        let fate = match there.contains(path) && !args.replace {
            true => Fate::There,
            false => store(&import, client.as_ref(), path)?,
        };
        fates.push((path, fate));
    }
    Ok(report(args, &import, &fates))
}

fn paths_of(client: &AdminClient) -> anyhow::Result<Vec<ResourcePath>> {
    let listed = block_on(client.list_resources())??;
    let stored = listed.into_iter().filter(|listed| listed.source == "store");
    Ok(stored.map(|listed| listed.path).collect())
}

/// Stores one; what ends this run and not only this resource is an error.
fn store(
    import: &Import,
    client: Option<&AdminClient>,
    path: &ResourcePath,
) -> anyhow::Result<Fate> {
    let content = match import.content(path, MAX_SECRET) {
        Ok(content) => content,
        Err(reason) => return Ok(Fate::Failed(reason)),
    };
    let Some(client) = client else {
        return Ok(Fate::Stored(content.len()));
    };
    match block_on(client.put_resource(path, &content))? {
        Ok(()) => Ok(Fate::Stored(content.len())),
        Err(error @ strongroom_client::ClientError::Rejected { .. }) => {
            Ok(Fate::Failed(error.to_string()))
        }
        Err(error) => {
            Err(error).context(
                "the import stopped; what was stored before is stored, and the same command goes on from there",
            )
        }
    }
}

fn report(args: &Args, import: &Import, fates: &[(&ResourcePath, Fate)]) -> Outcome {
    let verb = if args.dry_run {
        "would store"
    } else {
        "stored"
    };
    let (mut lines, mut stored, mut skipped) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    let mut failed = 0;
    for (path, fate) in fates {
        match fate {
            Fate::Stored(bytes) => {
                lines.push(format!("  {verb:<12} {} ({bytes} bytes)", path.to_uri()));
                stored.push(json!({ "resource": path, "bytes": bytes }));
            }
            Fate::There => {
                let reason = "the broker has it; --replace stores a new version";
                lines.push(format!("  left         {}: {reason}", path.to_uri()));
                skipped.push(json!({ "name": path, "reason": reason }));
            }
            Fate::Failed(reason) => {
                failed += 1;
                lines.push(format!("  not stored   {}: {reason}", path.to_uri()));
                skipped.push(json!({ "name": path, "reason": reason }));
            }
        }
    }
    for skip in import.skipped() {
        failed += 1;
        lines.push(format!("  skipped      {:?}: {}", skip.name, skip.reason));
        skipped.push(json!({ "name": skip.name, "reason": skip.reason }));
    }
    let base = import.base();
    let mut text = format!("From {}:\n{}", base.display(), lines.join("\n"));
    if !args.dry_run && !stored.is_empty() {
        text.push_str(&format!("\n\n{}", remains(import)));
    }
    let document = json!({
        "from": base, "dry_run": args.dry_run, "stored": stored, "skipped": skipped,
    });
    let outcome = Outcome::new(text, document).code(u8::from(failed > 0));
    match args.dry_run {
        true => outcome.next(format!(
            "strongroom broker import {}",
            args.from.as_options()
        )),
        false => outcome.next("strongroom resource list"),
    }
}

/// Storing a secret well does not make the place where it lay badly go away.
fn remains(import: &Import) -> String {
    let base = import.base().display();
    let remove = match import.base().is_dir() {
        true => format!("find '{base}' -type f -exec shred -u {{}} +"),
        false => format!("shred -u '{base}'"),
    };
    format!(
        "warning: {base} still holds these secrets in plaintext, and so do its backups. When guests get them from this \
         broker, remove them:\n  {remove}\nOn flash memory and on file systems that copy on write the old bytes stay \
         readable: there, change the secrets too."
    )
}
