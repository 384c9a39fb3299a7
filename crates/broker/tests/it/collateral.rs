//! Collateral through real HTTP: what is asked for, what is kept, and what happens when a service is not well.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use serde_json::json;
use strongroom_broker::collateral::{CollateralError, Collaterals, ImportOutcome};
use strongroom_broker::{CollateralConfig, Config, InitOptions, IntelKind, init};
use strongroom_verifier::{
    Collateral, CollateralItem, CollateralRequest, RootId, SnpProduct, VcekTcb, Wanted,
};
use time::OffsetDateTime;

use crate::replay::{Replay, Reply};
use crate::support::START;

const HOUR: u64 = 3_600;
const FMSPC: [u8; 6] = [0x00, 0xa0, 0x6d, 0x08, 0x00, 0x00];
const CRL: &str = "/vcek/v1/Milan/crl";

/// A service, a folder, a clock, and what answers between them.
struct Bench {
    service: Replay,
    folder: tempfile::TempDir,
    clock: Arc<AtomicU64>,
    config: CollateralConfig,
    collaterals: Collaterals,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(edit: impl FnOnce(&mut CollateralConfig)) -> Self {
        let service = Replay::start().await;
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicU64::new(START));
        let mut config = CollateralConfig::default();
        config.kds_url.clone_from(&service.url);
        config.intel_url.clone_from(&service.url);
        config.intel_root_crl_url = format!("{}/IntelSGXRootCA.der", service.url);
        config.rim_url.clone_from(&service.url);
        config.certificate = Some(any_authority(folder.path()));
        config.timeout_seconds = 5;
        edit(&mut config);
        let place = folder.path().join("collateral");
        let collaterals = open(&place, &config, &clock);
        Self {
            service,
            folder,
            clock,
            config,
            collaterals,
        }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("collateral")
    }

    fn restart(&mut self) {
        self.collaterals = open(&self.place(), &self.config, &self.clock);
    }

    fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    async fn answer(&self, wanted: &Wanted) -> Result<Collateral, CollateralError> {
        let request: CollateralRequest = [wanted.clone()].into_iter().collect();
        self.collaterals.answer(&request).await
    }

    async fn item(&self, wanted: &Wanted) -> CollateralItem {
        let collateral = self.answer(wanted).await.unwrap();
        collateral.item(wanted).unwrap().clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        files_in(&self.place())
    }
}

fn open(folder: &Path, config: &CollateralConfig, clock: &Arc<AtomicU64>) -> Collaterals {
    let ticking = Arc::clone(clock);
    Collaterals::open_folder(
        folder,
        config.clone(),
        Arc::new(move || ticking.load(Ordering::SeqCst)),
    )
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

/// So that no test depends on the authorities of the machine.
fn any_authority(folder: &Path) -> PathBuf {
    let path = folder.join("authority.pem");
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
    path
}

fn certificate() -> (Vec<u8>, String) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().to_vec(), certificate.pem())
}

fn crl(next_update: u64) -> Vec<u8> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let at = |seconds: u64| OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: at(START - HOUR),
        next_update: at(next_update),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(params, key)).unwrap();
    list.der().to_vec()
}

fn vcek(chip: u8) -> Wanted {
    Wanted::AmdVcek {
        product: SnpProduct::Milan,
        chip_id: vec![chip; 64],
        tcb: VcekTcb {
            fmc: None,
            bootloader: 3,
            tee: 0,
            snp: 8,
            microcode: 115,
        },
    }
}

fn vcek_path(chip: u8) -> String {
    let chip = hex::encode([chip; 64]);
    format!("/vcek/v1/Milan/{chip}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115")
}

fn root_crl() -> Wanted {
    Wanted::IntelRootCrl {
        root: RootId::INTEL,
    }
}

fn tcb_info() -> Wanted {
    Wanted::IntelTcbInfo {
        tdx: true,
        fmspc: FMSPC,
        root: RootId::INTEL,
    }
}

fn tcb_body(fmspc: &str) -> String {
    json!({
        "tcbInfo": {"id": "TDX", "fmspc": fmspc, "nextUpdate": "2027-02-01T00:00:00Z"},
        "signature": "ab".repeat(64),
    })
    .to_string()
}

fn url_encoded(pem: &str) -> String {
    pem.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[tokio::test]
async fn what_was_fetched_is_fetched_again() {
    let mut bench = Bench::new().await;
    let (der, _) = certificate();
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(der.clone())]);
    for _ in 0..3 {
        assert_eq!(bench.item(&vcek(1)).await.body, der);
    }
    bench.restart();
    assert_eq!(bench.item(&vcek(1)).await.body, der);
    bench.pass(29 * 24 * HOUR);
    assert_eq!(bench.item(&vcek(1)).await.body, der);
    assert_eq!(bench.service.asked(), [vcek_path(1)]);
    bench.pass(2 * 24 * HOUR);
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 2);
}

#[tokio::test]
async fn folder_is_open_to_others() {
    let bench = Bench::new().await;
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    bench.item(&vcek(1)).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.place()), 0o700);
    let files = bench.files();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn crowd_asks_a_service_more_than_once() {
    let bench = Arc::new(Bench::new().await);
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    bench.service.hold();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.item(&vcek(1)).await })
        })
        .collect();
    while bench.service.count() == 0 {
        tokio::task::yield_now().await;
    }
    bench.service.release();
    for one in crowd {
        one.await.unwrap();
    }
    assert_eq!(bench.service.count(), 1);
    assert_eq!(bench.collaterals.counts().fetched, 1);
}

#[tokio::test]
async fn fetch_is_lost_with_whoever_asked_first() {
    let bench = Arc::new(Bench::new().await);
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    bench.service.hold();
    let asking = Arc::clone(&bench);
    let first = tokio::spawn(async move { asking.item(&vcek(1)).await });
    while bench.service.count() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bench.service.release();
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 1);
}

#[tokio::test]
async fn service_that_asks_to_be_left_alone_is_asked_again() {
    let bench = Bench::new().await;
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    bench.item(&vcek(1)).await;
    let busy = Reply::status(429).with("retry-after", "30");
    bench
        .service
        .answers(&vcek_path(2), [busy, Reply::ok(certificate().0)]);
    let refused = |error: CollateralError| match error {
        CollateralError::LeftAlone { seconds, .. } => seconds,
        other => panic!("{other}"),
    };
    let seconds = refused(bench.answer(&vcek(2)).await.unwrap_err());
    assert!((30..=45).contains(&seconds), "{seconds}");
    bench.pass(29);
    let error = bench.answer(&vcek(3)).await.unwrap_err();
    assert!(error.to_string().contains("try again in "), "{error}");
    assert!(error.may_pass() && refused(error) >= 1);
    assert_eq!(bench.service.count(), 2);
    // What is kept is given all the same.
    bench.item(&vcek(1)).await;
    // Another service is not meant.
    bench
        .service
        .answers("/IntelSGXRootCA.der", [Reply::ok(crl(START + 300 * HOUR))]);
    bench.item(&root_crl()).await;
    bench.pass(30);
    bench.item(&vcek(2)).await;
    assert_eq!(bench.service.count(), 4);
}

#[tokio::test]
async fn retry_after_as_a_date_is_overlooked() {
    let bench = Bench::new().await;
    // START is 2027-01-15T08:00:00Z.
    let busy = Reply::status(429).with("retry-after", "Fri, 15 Jan 2027 08:10:00 GMT");
    bench.service.answers_otherwise(busy);
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    let CollateralError::LeftAlone { seconds, .. } = error else {
        panic!("{error}");
    };
    assert!((600..=900).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn failing_service_is_asked_without_end() {
    let bench = Bench::new().await;
    bench.service.answers_otherwise(Reply::status(500));
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(error.to_string().contains("status 500"), "{error}");
    assert_eq!(bench.service.count(), 3);
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(
        matches!(error, CollateralError::LeftAlone { .. }),
        "{error}"
    );
    assert_eq!(bench.service.count(), 3);
    bench.service.answers_otherwise(Reply::ok(certificate().0));
    bench.pass(600);
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 4);
}

#[tokio::test]
async fn one_failure_is_not_forgiven() {
    let bench = Bench::new().await;
    let replies = [Reply::status(502), Reply::ok(certificate().0)];
    bench.service.answers(&vcek_path(1), replies);
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 2);
}

#[tokio::test]
async fn silent_service_blocks_an_attestation() {
    let bench = Bench::with(|config| config.timeout_seconds = 1).await;
    bench.service.answers_otherwise(Reply::Silent);
    let began = std::time::Instant::now();
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(error.to_string().contains("within 1 s"), "{error}");
    assert!(began.elapsed().as_secs_f32() < 4.0);
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn absent_service_is_waited_for() {
    let bench = Bench::with(|config| config.kds_url = "http://127.0.0.1:1".to_owned()).await;
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(
        matches!(error, CollateralError::Unavailable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn answer_that_is_not_whole_or_not_right_is_kept() {
    let (der, _) = certificate();
    let mut wrong = der.clone();
    wrong.truncate(der.len() - 1);
    for reply in [
        Reply::Cut(der.clone()),
        Reply::Endless,
        Reply::Announced(1 << 40),
        Reply::ok(vec![0x30; 17 * 1024]),
        Reply::ok(wrong),
        Reply::ok(Vec::new()),
        Reply::ok("<html>sign in to the network</html>"),
    ] {
        let bench = Bench::new().await;
        bench
            .service
            .answers(&vcek_path(1), [reply, Reply::ok(der.clone())]);
        let error = bench.answer(&vcek(1)).await.unwrap_err();
        assert!(matches!(error, CollateralError::Unfit { .. }), "{error}");
        assert!(bench.files().is_empty());
        // Once is enough for a while.
        bench.answer(&vcek(1)).await.unwrap_err();
        assert_eq!(bench.service.count(), 1);
        bench.pass(60);
        bench.item(&vcek(1)).await;
    }
}

#[tokio::test]
async fn service_sends_to_another_host() {
    let bench = Bench::new().await;
    let other = Replay::start().await;
    other.answers_otherwise(Reply::ok(certificate().0));
    let moved = Reply::status(302).with("location", format!("{}/x", other.url));
    bench.service.answers(&vcek_path(1), [moved]);
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
    assert_eq!(other.count(), 0);
}

#[tokio::test]
async fn unknown_chip_is_asked_for_again() {
    let bench = Bench::new().await;
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    assert!(
        matches!(error, CollateralError::NotKnown { status: 404, .. }),
        "{error}"
    );
    assert!(!error.may_pass());
    let said = error.to_string();
    assert!(
        said.contains("does not know the VCEK certificate of Milan chip 0101"),
        "{said}"
    );
    assert_eq!(bench.answer(&vcek(1)).await.unwrap_err(), error);
    assert_eq!(bench.service.count(), 1);
    bench.pass(HOUR);
    bench.answer(&vcek(1)).await.unwrap_err();
    assert_eq!(bench.service.count(), 2);
}

#[tokio::test]
async fn strangers_make_the_broker_ask_for_invented_chips() {
    let bench = Bench::new().await;
    let mut busy = 0;
    for chip in 0..100 {
        match bench.answer(&vcek(chip)).await.unwrap_err() {
            CollateralError::NotKnown { .. } => {}
            CollateralError::Busy { .. } => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((bench.service.count(), busy), (60, 40));
    assert_eq!(bench.collaterals.counts().refused, 40);
    // A list that all guests share is not among them.
    bench
        .service
        .answers(CRL, [Reply::ok(crl(START + 300 * HOUR))]);
    let milan = Wanted::AmdCrl {
        product: SnpProduct::Milan,
    };
    bench.item(&milan).await;
    bench.pass(60);
    bench.answer(&vcek(200)).await.unwrap_err();
    assert_eq!(bench.service.count(), 62);
}

#[tokio::test]
async fn old_list_is_used_for_ever_or_not_at_all() {
    let bench = Bench::new().await;
    let (old, new) = (crl(START + 10_000 * HOUR), crl(START + 20_000 * HOUR));
    let path = "/IntelSGXRootCA.der";
    bench.service.answers(path, [Reply::ok(old.clone())]);
    bench.item(&root_crl()).await;
    bench.pass(24 * HOUR - 1);
    bench.item(&root_crl()).await;
    assert_eq!(bench.service.count(), 1);
    bench.service.answers(path, [Reply::status(500)]);
    bench.pass(1);
    assert_eq!(bench.item(&root_crl()).await.body, old);
    assert_eq!(bench.collaterals.counts().stale, 1);
    assert_eq!(bench.service.count(), 4);
    // Within the backoff nobody is asked.
    assert_eq!(bench.item(&root_crl()).await.body, old);
    assert_eq!(bench.service.count(), 4);
    bench.pass(72 * HOUR - 1);
    assert_eq!(bench.item(&root_crl()).await.body, old);
    bench.pass(1);
    bench.answer(&root_crl()).await.unwrap_err();
    bench.service.answers(path, [Reply::ok(new.clone())]);
    bench.pass(HOUR);
    assert_eq!(bench.item(&root_crl()).await.body, new);
}

#[tokio::test]
async fn list_outlives_its_next_update() {
    let bench = Bench::new().await;
    let path = "/IntelSGXRootCA.der";
    let lists = [
        Reply::ok(crl(START + HOUR)),
        Reply::ok(crl(START + 50 * HOUR)),
    ];
    bench.service.answers(path, lists);
    let first = bench.item(&root_crl()).await;
    bench.pass(HOUR);
    assert_ne!(bench.item(&root_crl()).await, first);
    assert_eq!(bench.service.count(), 2);
}

#[tokio::test]
async fn service_with_old_lists_is_asked_with_every_attestation() {
    let bench = Bench::new().await;
    bench
        .service
        .answers("/IntelSGXRootCA.der", [Reply::ok(crl(START - 60))]);
    for _ in 0..5 {
        bench.item(&root_crl()).await;
    }
    assert_eq!(bench.service.count(), 1);
}

#[tokio::test]
async fn broker_without_a_network_asks_somebody() {
    let mut bench = Bench::with(|config| config.offline = true).await;
    bench.service.answers_otherwise(Reply::ok(certificate().0));
    let error = bench.answer(&vcek(1)).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("collateral import") && said.contains("amd/milan/vcek_"),
        "{said}"
    );
    // What somebody puts there is found, by a broker that runs and by one that starts.
    let place = bench.place().join(vcek(1).path());
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, certificate().0).unwrap();
    bench.item(&vcek(1)).await;
    bench.restart();
    bench.pass(1_000 * 24 * HOUR);
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 0);
}

#[tokio::test]
async fn damaged_piece_is_believed() {
    let (der, pem) = certificate();
    let chain = url_encoded(&pem);
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |body| {
            let mut bytes = std::fs::read(body).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(body, bytes).unwrap();
        },
        |body| std::fs::write(body, "").unwrap(),
        |body| std::fs::write(format!("{}.note", body.display()), "{\"fetched_at\":").unwrap(),
        |body| std::fs::write(format!("{}.note", body.display()), vec![b' '; 1 << 20]).unwrap(),
        |body| std::fs::write(body, vec![b'0'; 8 << 20]).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut bench = Bench::new().await;
        bench
            .service
            .answers(&vcek_path(1), [Reply::ok(der.clone())]);
        let reply = Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", &chain);
        bench
            .service
            .answers("/tdx/certification/v4/tcb?fmspc=00a06d080000", [reply]);
        for wanted in [vcek(1), tcb_info()] {
            bench.item(&wanted).await;
            let before = bench.service.count();
            damage(&bench.place().join(wanted.path()));
            bench.restart();
            bench.item(&wanted).await;
            assert_eq!(bench.service.count(), before + 1, "{wanted} {number}");
            bench.restart();
            bench.item(&wanted).await;
            assert_eq!(bench.service.count(), before + 1, "{wanted} {number}");
        }
    }
}

#[tokio::test]
async fn damaged_chain_is_believed() {
    let mut bench = Bench::new().await;
    let chain = url_encoded(&certificate().1);
    let reply = Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", chain);
    bench
        .service
        .answers("/tdx/certification/v4/tcb?fmspc=00a06d080000", [reply]);
    bench.item(&tcb_info()).await;
    let place = bench.place().join(tcb_info().chain_path().unwrap());
    std::fs::write(place, certificate().1).unwrap();
    bench.restart();
    bench.item(&tcb_info()).await;
    assert_eq!(bench.service.count(), 2);
}

#[tokio::test]
async fn optional_list_that_cannot_be_had_refuses_an_attestation() {
    let bench = Bench::new().await;
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    let list = Wanted::AmdCrl {
        product: SnpProduct::Milan,
    };
    let request: CollateralRequest = [vcek(1), list.clone()].into_iter().collect();
    let collateral = bench.collaterals.answer(&request).await.unwrap();
    assert!(collateral.item(&vcek(1)).is_some());
    assert!(collateral.item(&list).is_none());
    let both = bench.collaterals.fetch(&request).await;
    let failed: Vec<_> = both
        .iter()
        .filter(|(_, outcome)| outcome.is_err())
        .collect();
    assert_eq!(failed.len(), 1);
}

#[tokio::test]
async fn name_of_a_manifest_leads_elsewhere() {
    let bench = Bench::new().await;
    bench.service.answers_otherwise(Reply::ok("{}"));
    for id in [
        "../../kds",
        "..",
        "a/b",
        "a?b",
        "a%2fb",
        "",
        "a b",
        &"a".repeat(200),
    ] {
        let wanted = Wanted::NvidiaRim { id: id.to_owned() };
        let collateral = bench.answer(&wanted).await.unwrap();
        assert!(collateral.item(&wanted).is_none());
        let request: CollateralRequest = [wanted].into_iter().collect();
        let outcome = bench.collaterals.fetch(&request).await.pop().unwrap().1;
        assert!(
            matches!(outcome, Err(CollateralError::Implausible { .. })),
            "{id}"
        );
    }
    assert_eq!(bench.service.count(), 0);
}

#[tokio::test]
async fn manifest_is_not_taken_out_of_its_answer() {
    let bench = Bench::new().await;
    let xml = "<?xml version=\"1.0\"?><SoftwareIdentity name=\"x\"/>";
    let id = "NV_GPU_DRIVER_GH100_535.86.09";
    let body = json!({"id": id, "rim": STANDARD.encode(xml), "rim_format": "TCG"}).to_string();
    bench
        .service
        .answers(&format!("/v1/rim/{id}"), [Reply::ok(body)]);
    let wanted = Wanted::NvidiaRim { id: id.to_owned() };
    assert_eq!(bench.item(&wanted).await.body, xml.as_bytes());
    let place = bench.place().join(format!("nvidia/rim/{id}.xml"));
    assert_eq!(std::fs::read(place).unwrap(), xml.as_bytes());
}

#[tokio::test]
async fn intel_is_asked_in_another_form_than_it_answers() {
    for kind in [IntelKind::Pcs, IntelKind::Pccs] {
        let bench = Bench::with(|config| config.intel_kind = kind).await;
        let (_, pem) = certificate();
        let chain = url_encoded(&pem);
        let list = crl(START + 300 * HOUR);
        let qe = json!({
            "enclaveIdentity": {"id": "TD_QE", "nextUpdate": "2027-02-01T00:00:00Z"},
            "signature": "ab".repeat(64),
        });
        let service = &bench.service;
        service.answers(
            "/tdx/certification/v4/tcb?fmspc=00a06d080000",
            [Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", &chain)],
        );
        service.answers(
            "/tdx/certification/v4/qe/identity",
            [Reply::ok(qe.to_string()).with("SGX-Enclave-Identity-Issuer-Chain", &chain)],
        );
        service.answers(
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            [Reply::ok(list.clone()).with("SGX-PCK-CRL-Issuer-Chain", &chain)],
        );
        match kind {
            IntelKind::Pccs => service.answers(
                "/sgx/certification/v4/rootcacrl",
                [Reply::ok(hex::encode(&list))],
            ),
            _ => service.answers("/IntelSGXRootCA.der", [Reply::ok(list.clone())]),
        }
        let root = RootId::INTEL;
        let all = [
            tcb_info(),
            Wanted::IntelQeIdentity { tdx: true, root },
            Wanted::IntelPckCrl {
                platform: true,
                root,
            },
            root_crl(),
        ];
        let request: CollateralRequest = all.iter().cloned().collect();
        let collateral = bench.collaterals.answer(&request).await.unwrap();
        for wanted in &all {
            let item = collateral.item(wanted).unwrap();
            let expected = if *wanted == root_crl() { "" } else { &pem };
            assert_eq!(item.issuer_chain, expected, "{wanted}");
            if matches!(
                wanted,
                Wanted::IntelPckCrl { .. } | Wanted::IntelRootCrl { .. }
            ) {
                assert_eq!(item.body, list);
            }
        }
        assert_eq!(service.count(), 4);
        bench.collaterals.answer(&request).await.unwrap();
        assert_eq!(service.count(), 4);
    }
}

#[tokio::test]
async fn tcb_info_of_another_machine_or_without_a_chain_is_kept() {
    let path = "/tdx/certification/v4/tcb?fmspc=00a06d080000";
    let chain = url_encoded(&certificate().1);
    for reply in [
        Reply::ok(tcb_body("00A06D080001")).with("TCB-Info-Issuer-Chain", &chain),
        Reply::ok(tcb_body("00A06D080000")),
        Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", "%zz"),
        Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", "a".repeat(17 * 1024)),
    ] {
        let bench = Bench::new().await;
        bench.service.answers(path, [reply]);
        let error = bench.answer(&tcb_info()).await.unwrap_err();
        assert!(matches!(error, CollateralError::Unfit { .. }), "{error}");
        assert!(bench.files().is_empty());
    }
}

#[tokio::test]
async fn root_of_nobody_is_asked_for() {
    let bench = Bench::new().await;
    let wanted = Wanted::IntelRootCrl {
        root: RootId([7; 32]),
    };
    let error = bench.answer(&wanted).await.unwrap_err();
    assert!(
        matches!(error, CollateralError::UnknownRoot { .. }),
        "{error}"
    );
    assert_eq!(bench.service.count(), 0);
}

#[tokio::test]
async fn one_evidence_asks_for_the_whole_world() {
    let bench = Bench::new().await;
    let request: CollateralRequest = (0..65).map(vcek).collect();
    let error = bench.collaterals.answer(&request).await.unwrap_err();
    assert!(
        matches!(error, CollateralError::TooMany { actual: 65 }),
        "{error}"
    );
    assert_eq!(bench.service.count(), 0);
}

#[tokio::test]
async fn development_root_is_answered_from_elsewhere_than_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let service = Replay::start().await;
    let options = InitOptions::new("127.0.0.1:0".parse().unwrap());
    let summary = init(&folder.path().join("broker"), options).unwrap();
    let (der, pem) = certificate();
    std::fs::write(folder.path().join("root.pem"), pem).unwrap();
    let mut config = Config::load(&summary.config).unwrap();
    config.development.root = Some(folder.path().to_owned());
    config.collateral.kds_url.clone_from(&service.url);
    config.collateral.intel_url.clone_from(&service.url);
    config.collateral.certificate = Some(any_authority(folder.path()));
    let collaterals = Collaterals::open(&config, Arc::new(|| START)).unwrap();
    let mut id = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    id.copy_from_slice(digest.as_ref());
    let wanted = Wanted::IntelRootCrl { root: RootId(id) };
    let request: CollateralRequest = [wanted.clone(), vcek(1)].into_iter().collect();
    let error = collaterals.answer(&request).await.unwrap_err();
    assert!(
        error.to_string().contains("root.crl") || error.to_string().contains("VCEK"),
        "{error}"
    );
    let list = crl(START + 300 * HOUR);
    for (path, body) in [(wanted.path(), &list), (vcek(1).path(), &der)] {
        let place = folder.path().join("collateral").join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, body).unwrap();
    }
    let asked = service.count();
    let collateral = collaterals.answer(&request).await.unwrap();
    assert_eq!(collateral.item(&wanted).unwrap().body, list);
    assert_eq!(collateral.item(&vcek(1)).unwrap().body, der);
    assert_eq!(service.count(), asked);
}

#[tokio::test]
async fn folder_of_another_machine_cannot_be_brought_in() {
    let there = Bench::new().await;
    let chain = url_encoded(&certificate().1);
    there
        .service
        .answers(&vcek_path(1), [Reply::ok(certificate().0)]);
    let reply = Reply::ok(tcb_body("00A06D080000")).with("TCB-Info-Issuer-Chain", chain);
    there
        .service
        .answers("/tdx/certification/v4/tcb?fmspc=00a06d080000", [reply]);
    there.item(&vcek(1)).await;
    there.item(&tcb_info()).await;
    let wrong = there.place().join("amd/genoa/crl.der");
    std::fs::create_dir_all(wrong.parent().unwrap()).unwrap();
    std::fs::write(wrong, "no list").unwrap();

    let here = Bench::with(|config| config.offline = true).await;
    let imported = here.collaterals.import(&there.place()).unwrap();
    let outcomes: Vec<_> = imported.iter().map(|one| &one.outcome).collect();
    assert!(
        matches!(
            outcomes.as_slice(),
            [
                ImportOutcome::Refused(_),
                ImportOutcome::Kept,
                ImportOutcome::Kept
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(here.item(&vcek(1)).await, there.item(&vcek(1)).await);
    assert_eq!(here.item(&tcb_info()).await, there.item(&tcb_info()).await);
    let again = here
        .collaterals
        .import(&there.place().join(vcek(1).path()))
        .unwrap();
    assert_eq!(again[0].outcome, ImportOutcome::Older);
    assert!(
        here.collaterals
            .import(Path::new("/elsewhere/crl.pem"))
            .unwrap()
            .is_empty()
    );

    let listed = here.collaterals.list();
    let paths: Vec<&str> = listed.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, [vcek(1).path(), tcb_info().path()]);
    assert_eq!(listed[0].fetched_at, START);
    assert_eq!(listed[0].source, there.service.url);
    assert_eq!(listed[1].next_update, Some(1_801_440_000));
    assert!(listed.iter().all(|one| one.is_usable));
}

#[tokio::test]
async fn what_an_owner_fetches_or_takes_away_is_seen_when_the_old_one_is_due() {
    let bench = Bench::new().await;
    let (old, new) = (certificate().0, certificate().0);
    let replies = [Reply::ok(old.clone()), Reply::ok(new.clone())];
    bench.service.answers(&vcek_path(1), replies);
    assert_eq!(bench.item(&vcek(1)).await.body, old);
    // Another program, on the same folder.
    let other = open(&bench.place(), &bench.config, &bench.clock);
    let request = [vcek(1)].into_iter().collect();
    assert_eq!(other.fetch(&request).await, [(vcek(1), Ok(()))]);
    assert_eq!(bench.item(&vcek(1)).await.body, new);
    assert_eq!(bench.service.count(), 2);
    std::fs::remove_dir_all(bench.place()).unwrap();
    bench.item(&vcek(1)).await;
    assert_eq!(bench.service.count(), 3);
}

#[tokio::test]
async fn folder_that_cannot_be_written_costs_a_request_each_attestation() {
    let bench = Bench::new().await;
    let (der, _) = certificate();
    bench
        .service
        .answers(&vcek_path(1), [Reply::ok(der.clone())]);
    std::fs::create_dir(bench.place()).unwrap();
    std::fs::write(bench.place().join("amd"), "in the way").unwrap();
    for _ in 0..3 {
        assert_eq!(bench.item(&vcek(1)).await.body, der);
    }
    assert_eq!(bench.service.count(), 1);
    // Who fetches for the folder hears that nothing is there.
    let request = [vcek(1)].into_iter().collect();
    let outcomes = bench.collaterals.fetch(&request).await;
    assert!(
        matches!(outcomes[0].1, Err(CollateralError::Folder { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn silent_service_keeps_others_from_being_asked() {
    let amd = Replay::start().await;
    let url = amd.url.clone();
    let bench = Arc::new(Bench::with(|config| config.kds_url = url).await);
    let list = crl(2_000_000_000);
    bench
        .service
        .answers("/IntelSGXRootCA.der", [Reply::ok(list.clone())]);
    amd.answers_otherwise(Reply::Silent);
    let waiting: Vec<_> = (0..8)
        .map(|chip| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.answer(&vcek(chip)).await.map(drop) })
        })
        .collect();
    while amd.count() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let wanted = root_crl();
    let item = tokio::time::timeout(Duration::from_secs(3), bench.item(&wanted));
    assert_eq!(item.await.unwrap().body, list);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
