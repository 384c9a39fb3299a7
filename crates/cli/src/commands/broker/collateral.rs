//! `strongroom broker collateral`: what the platforms' makers publish, fetched ahead, listed, and carried to a machine
//! without a network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use strongroom_broker::collateral::{Collaterals, ImportOutcome, Listed};
use strongroom_broker::{CollateralConfig, Config};
use strongroom_verifier::{CollateralRequest, RootId, SnpProduct, VcekTcb, Wanted};
use strongroom_wire::tee::Tee;

use crate::evidence;
use crate::outcome::Outcome;

/// What the makers of the platforms publish, and a broker needs beside evidence: certificates, revocation lists, TCB
/// levels, reference manifests.
///
/// A broker fetches what evidence asks for by itself, and keeps it. These commands are for what should be there before,
/// and for brokers without a network: fetch where there is one, carry the folder over, import.
///
/// DIR is a broker's folder, whose configuration says where its collateral lies and whom to ask; any other folder is
/// taken for a collateral folder itself.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Fetch(FetchArgs),
    List(ListArgs),
    Import(ImportArgs),
}

/// Fetch collateral before evidence asks for it; with nothing named, fetch anew what the folder has
///
/// What each service refuses is said, with the time after which it may be asked again; what came is kept.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  strongroom broker collateral fetch --evidence evidence.json broker
  strongroom broker collateral fetch --tdx-fmspc 00806f050000 usb/collateral
  strongroom broker collateral fetch --snp-crl milan --snp-crl genoa broker
  strongroom broker collateral fetch --snp-chip milan:CHIPID:3.0.8.115 broker
  strongroom broker collateral fetch broker        what is there, anew")]
struct FetchArgs {
    /// A broker's folder, or a collateral folder.
    #[arg(default_value = "broker")]
    dir: PathBuf,

    /// Whatever this evidence would ask for: JSON, or the platform's own form.
    #[arg(long, value_name = "FILE")]
    evidence: Vec<PathBuf>,

    /// The platform of the evidence [default: what it looks like].
    #[arg(long, requires = "evidence")]
    tee: Option<Tee>,

    /// Whatever TDX quotes from machines of this FMSPC need (12 hexadecimal digits).
    #[arg(long, value_name = "HEX", value_parser = parse_fmspc)]
    tdx_fmspc: Vec<Fmspc>,

    /// Whatever SGX quotes from machines of this FMSPC need (12 hexadecimal digits).
    #[arg(long, value_name = "HEX", value_parser = parse_fmspc)]
    sgx_fmspc: Vec<Fmspc>,

    /// A chip's VCEK at a TCB: milan:CHIPID:BOOTLOADER.TEE.SNP.MICROCODE; on turin: turin:CHIPID:FMC.BOOTLOADER.…
    #[arg(long, value_name = "PRODUCT:HEX:TCB", value_parser = parse_chip)]
    snp_chip: Vec<Wanted>,

    /// The revocation list of a product line: milan, genoa or turin.
    #[arg(long, value_name = "PRODUCT", value_parser = parse_product)]
    snp_crl: Vec<SnpProduct>,

    /// A reference manifest of NVIDIA's, by its id.
    #[arg(long, value_name = "ID")]
    rim: Vec<String>,
}

/// List what a folder has: what it is, how old, and until when it is used
#[derive(clap::Args)]
struct ListArgs {
    /// A broker's folder, or a collateral folder.
    #[arg(default_value = "broker")]
    dir: PathBuf,
}

/// Take over collateral that was fetched elsewhere, for a broker where there is no network
///
/// Each file must lie at its place, as `fetch` and a broker put it: amd/milan/crl.der, intel/…/tdx/tcb_….json. Its form
/// is checked; what is here and newer stays. A running broker finds what is new by itself.
#[derive(clap::Args)]
struct ImportArgs {
    /// A broker's folder, or a collateral folder.
    dir: PathBuf,

    /// Collateral folders, or files of them at their places.
    #[arg(required = true, value_name = "FOLDER|FILE")]
    from: Vec<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Fetch(args) => fetch(&args),
        Action::List(args) => list(&args),
        Action::Import(args) => import(&args),
    }
}

fn fetch(args: &FetchArgs) -> anyhow::Result<Outcome> {
    let collaterals = open(&args.dir)?;
    let mut request = args.request()?;
    if request.is_empty() {
        must_be_there(&args.dir)?;
        request = collaterals.list().into_iter().map(|it| it.wanted).collect();
    }
    if request.is_empty() {
        bail!(
            "there is nothing to fetch: {} is empty, and neither --evidence nor anything else names what is needed",
            collaterals.folder().display()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcomes = runtime.block_on(collaterals.fetch(&request));
    let folder = collaterals.folder().display().to_string();
    let mut text = String::new();
    let mut documents = Vec::new();
    let (mut failed, mut needed) = (0, 0);
    for (wanted, outcome) in outcomes {
        let error = outcome.err().map(|error| error.to_string());
        match &error {
            None => text.push_str(&format!("fetched  {wanted}\n         {}\n", wanted.path())),
            Some(error) => {
                failed += 1;
                needed += usize::from(wanted.is_required());
                text.push_str(&format!("FAILED   {error}\n"));
            }
        }
        documents.push(json!({
            "what": wanted.to_string(), "path": wanted.path(), "fetched": error.is_none(),
            "required": wanted.is_required(), "error": error,
        }));
    }
    let fetched = documents.len() - failed;
    text.push_str(&format!(
        "\n{fetched} fetched, {failed} failed, in {folder}"
    ));
    if failed > needed {
        text.push_str("\nWithout what is optional evidence still verifies, and a claim says that it was not looked at.");
    }
    let document =
        json!({ "folder": folder, "fetched": fetched, "failed": failed, "items": documents });
    Ok(Outcome::new(text, document)
        .code(u8::from(failed > 0))
        .next(format!(
            "strongroom broker collateral list {}",
            args.dir.display()
        )))
}

impl FetchArgs {
    fn request(&self) -> anyhow::Result<CollateralRequest> {
        let mut request = CollateralRequest::default();
        for file in &self.evidence {
            let (_, parsed) = evidence::parse_file(file, self.tee)?;
            let parsed = parsed.with_context(|| format!("{} cannot be used", file.display()))?;
            request.extend(parsed.collateral_request().iter().cloned());
        }
        for (tdx, fmspcs) in [(true, &self.tdx_fmspc), (false, &self.sgx_fmspc)] {
            request.extend(fmspcs.iter().flat_map(|fmspc| of_intel(tdx, fmspc.0)));
        }
        request.extend(self.snp_chip.iter().cloned());
        let crl = |product: &SnpProduct| Wanted::AmdCrl { product: *product };
        request.extend(self.snp_crl.iter().map(crl));
        let rim = |id: &String| Wanted::NvidiaRim { id: id.clone() };
        request.extend(self.rim.iter().map(rim));
        Ok(request)
    }
}

fn list(args: &ListArgs) -> anyhow::Result<Outcome> {
    must_be_there(&args.dir)?;
    let collaterals = open(&args.dir)?;
    let now = evidence::now()?;
    let listed = collaterals.list();
    let folder = collaterals.folder().display();
    let text = match listed.is_empty() {
        true => format!("There is no collateral in {folder}."),
        false => listed
            .iter()
            .map(|it| line(it, now))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let items: Vec<Value> = listed.iter().map(document).collect();
    let dir = args.dir.display();
    let next = match listed.is_empty() {
        true => format!("strongroom broker collateral fetch --evidence FILE {dir}"),
        false => format!("strongroom broker collateral fetch {dir}"),
    };
    Ok(Outcome::new(
        text,
        json!({ "folder": collaterals.folder(), "items": items }),
    )
    .next(next))
}

fn line(it: &Listed, now: u64) -> String {
    let age = age(now.saturating_sub(it.fetched_at));
    let state = match (it.is_usable, it.due.checked_sub(now)) {
        (false, _) => "TOO OLD, not used".to_owned(),
        (true, Some(left)) => format!("fetched anew in {}", self::age(left)),
        (true, None) => format!(
            "due; used until its service answers, {} more at most",
            self::age(it.usable_until.saturating_sub(now))
        ),
    };
    let next = it
        .next_update
        .map_or_else(String::new, |next| format!(", next update {}", date(next)));
    format!(
        "{}\n  {}\n  {age} old, from {}, {} bytes{next}; {state}",
        it.wanted, it.path, it.source, it.bytes
    )
}

fn document(it: &Listed) -> Value {
    json!({
        "what": it.wanted.to_string(), "path": it.path, "fetched_at": it.fetched_at,
        "next_update": it.next_update, "due": it.due, "usable_until": it.usable_until,
        "usable": it.is_usable, "source": it.source, "bytes": it.bytes,
    })
}

fn import(args: &ImportArgs) -> anyhow::Result<Outcome> {
    let collaterals = open(&args.dir)?;
    let mut text = String::new();
    let mut documents = Vec::new();
    let (mut kept, mut refused) = (0, 0);
    for from in &args.from {
        if !from.exists() {
            bail!("there is no {}", from.display());
        }
        let imported = collaterals.import(from)?;
        if imported.is_empty() && !is_beside_a_piece(from) {
            bail!(
                "there is nothing in {} that is collateral at its place: files must lie as `strongroom broker collateral fetch` puts them, such as amd/milan/crl.der",
                from.display()
            );
        }
        for one in imported {
            let (path, wanted) = (one.path.display(), &one.wanted);
            let (word, reason) = match &one.outcome {
                ImportOutcome::Kept => {
                    kept += 1;
                    ("imported", None)
                }
                ImportOutcome::Older => ("as new here", None),
                ImportOutcome::Refused(reason) => {
                    refused += 1;
                    ("REFUSED", Some(reason.clone()))
                }
                _ => ("left", None),
            };
            let said = reason
                .as_ref()
                .map_or_else(String::new, |r| format!(": {r}"));
            text.push_str(&format!("{word:<12} {wanted} ({path}){said}\n"));
            documents.push(json!({
                "path": one.path, "what": wanted.to_string(), "outcome": word, "error": reason,
            }));
        }
    }
    let folder = collaterals.folder();
    text.push_str(&format!(
        "\n{kept} imported, {refused} refused, in {}",
        folder.display()
    ));
    let document =
        json!({ "folder": folder, "imported": kept, "refused": refused, "items": documents });
    Ok(Outcome::new(text, document)
        .code(u8::from(refused > 0))
        .next(format!(
            "strongroom broker collateral list {}",
            args.dir.display()
        )))
}

/// A chain or a note, which comes along with its piece: a shell's `*` names them too.
fn is_beside_a_piece(file: &Path) -> bool {
    let name = file.to_string_lossy();
    file.is_file() && (name.ends_with(".chain.pem") || name.ends_with(".note"))
}

/// The collateral of a broker's folder, or of a folder itself.
fn open(dir: &Path) -> anyhow::Result<Collaterals> {
    evidence::now()?;
    let clock = Arc::new(|| evidence::now().unwrap_or_default());
    let path = match dir.is_dir() {
        true => dir.join("broker.toml"),
        false => dir.to_owned(),
    };
    if path.is_file() {
        let config = Config::load(&path)
            .with_context(|| format!("the configuration {} cannot be used", path.display()))?;
        return Ok(Collaterals::open(&config, clock)?);
    }
    Ok(Collaterals::open_folder(
        dir,
        CollateralConfig::default(),
        clock,
    ))
}

/// A name that was mistyped is no empty folder.
fn must_be_there(dir: &Path) -> anyhow::Result<()> {
    ensure!(
        dir.exists(),
        "there is no folder {}: name a broker's, which `strongroom broker init` makes, or one that \
         `strongroom broker collateral fetch` filled",
        dir.display()
    );
    Ok(())
}

/// What a quote of Intel's needs, whichever CA issued the platform's certificate.
fn of_intel(tdx: bool, fmspc: [u8; 6]) -> [Wanted; 5] {
    let root = RootId::INTEL;
    let crl = |platform| Wanted::IntelPckCrl { platform, root };
    [
        Wanted::IntelTcbInfo { tdx, fmspc, root },
        Wanted::IntelQeIdentity { tdx, root },
        crl(true),
        crl(false),
        Wanted::IntelRootCrl { root },
    ]
}

#[derive(Clone, Copy, Debug)]
struct Fmspc([u8; 6]);

fn parse_fmspc(text: &str) -> anyhow::Result<Fmspc> {
    let mut fmspc = [0; 6];
    hex::decode_to_slice(text, &mut fmspc)
        .context("an FMSPC is 12 hexadecimal digits, such as 00806f050000")?;
    Ok(Fmspc(fmspc))
}

fn parse_product(text: &str) -> anyhow::Result<SnpProduct> {
    SnpProduct::ALL
        .into_iter()
        .find(|product| product.to_string().eq_ignore_ascii_case(text))
        .context("a product line is milan, genoa or turin")
}

fn parse_chip(text: &str) -> anyhow::Result<Wanted> {
    let form = "write PRODUCT:CHIPID:TCB, such as milan:CHIPID:3.0.8.115";
    let mut parts = text.split(':');
    let (Some(product), Some(chip), Some(tcb), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!(form);
    };
    let product = parse_product(product)?;
    let numbers: Vec<u8> = tcb
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("the TCB is numbers from 0 to 255 with dots between")?;
    let (fmc, bootloader, tee, snp, microcode) = match (product, numbers.as_slice()) {
        (SnpProduct::Turin, [fmc, bootloader, tee, snp, microcode]) => {
            (Some(*fmc), *bootloader, *tee, *snp, *microcode)
        }
        (SnpProduct::Milan | SnpProduct::Genoa, [bootloader, tee, snp, microcode]) => {
            (None, *bootloader, *tee, *snp, *microcode)
        }
        _ => bail!(
            "the TCB has four numbers (bootloader, TEE, SNP, microcode), on turin the FMC's before them"
        ),
    };
    let wanted = Wanted::AmdVcek {
        product,
        chip_id: hex::decode(chip).context("the chip id is hexadecimal")?,
        tcb: VcekTcb {
            fmc,
            bootloader,
            tee,
            snp,
            microcode,
        },
    };
    if !wanted.is_plausible() {
        bail!("a chip id has 64 bytes, on turin 8, in hexadecimal");
    }
    Ok(wanted)
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn date(seconds: u64) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(format).ok())
        .unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn chip_is_read_wrongly() {
        let chip = "ab".repeat(64);
        let milan = parse_chip(&format!("milan:{chip}:3.0.8.115")).unwrap();
        assert_eq!(
            milan.path(),
            format!("amd/milan/vcek_{chip}_bl03_tee00_snp08_ucode115.der")
        );
        let turin = parse_chip("Turin:abababababababab:1.3.0.8.115").unwrap();
        assert_eq!(
            turin.path(),
            "amd/turin/vcek_abababababababab_bl03_tee00_snp08_ucode115_fmc01.der"
        );
        for bad in [
            "",
            "milan",
            "milan:ab:3.0.8.115",
            &format!("milan:{chip}:3.0.8"),
            &format!("milan:{chip}:3.0.8.256"),
            &format!("milan:{chip}:1.3.0.8.115"),
            &format!("rome:{chip}:3.0.8.115"),
            &format!("milan:{chip}:3.0.8.115:x"),
        ] {
            assert!(parse_chip(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fmspc_of_another_length_is_taken() {
        assert_eq!(
            parse_fmspc("00806F050000").unwrap().0,
            [0, 0x80, 0x6f, 5, 0, 0]
        );
        assert!(parse_fmspc("00806F0500").is_err());
    }
}
