//! The configuration that a machine was launched with, on machines whose kernel the test answers: used when the hardware
//! holds its digest, and otherwise nothing of it, not even to say what is wrong in it.
#![allow(clippy::unwrap_used)]

use strongroom_attester::development::{DevelopmentRoot, snp};
use strongroom_attester::{Attester, BindingError, Bound, Devices, Event};
use strongroom_guest::launch::Wanted;
use strongroom_guest::{GuestError, Launched, Places, UnverifiedInitdata};
use strongroom_testkit::kernel::{Kernel, Machine, Registers};
use strongroom_wire::initdata::Initdata;

const NOW: u64 = 1_800_000_000;

const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"https://broker:8080\"\n[eventlog_config]\nenable_eventlog = true\n'''\n\"cdh.toml\" = '''\n[kbc]\nname = \"cc_kbc\"\nurl = \"https://broker:8080\"\n'''\n\"policy.rego\" = \"package agent_policy\"\n";

/// An SNP guest that was launched with the digest of a document, or without one, and its disks.
struct Guest {
    machine: Machine,
    disks: tempfile::TempDir,
}

impl Guest {
    fn launched_with(document: Option<&str>) -> Option<Self> {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let digest = document.map(|text| Initdata::parse(text).unwrap().digest());
        let forge = snp::Forge::new(&root).with_initdata(&digest.unwrap_or_default());
        let mut kernel = Kernel::new(move |_: &Registers, report_data| {
            let forge = forge.clone().with_report_data(report_data);
            forge.report_bytes().unwrap()
        });
        kernel.provider = Some("sev_guest");
        let machine = kernel.boot()?;
        let disks = tempfile::tempdir().unwrap();
        Some(Self { machine, disks })
    }

    fn attach(&self, text: &str) {
        let disk = Initdata::parse(text).unwrap().to_disk();
        std::fs::write(self.disks.path().join("vdb"), disk).unwrap();
    }

    fn launch(&self) -> Result<Launched, GuestError> {
        let devices = Devices::under(&self.machine.root());
        let attester = Attester::detect(&devices).unwrap().attester;
        let places = Places {
            devices: self.disks.path().to_owned(),
            files: Vec::new(),
        };
        Launched::verify(&attester, UnverifiedInitdata::find(&places)?)
    }
}

#[test]
fn document_of_this_launch_is_the_configuration() {
    let Some(guest) = Guest::launched_with(Some(DOCUMENT)) else {
        return;
    };
    guest.attach(DOCUMENT);
    let launched = guest.launch().unwrap();
    assert_eq!(
        launched.bound,
        Bound::Matches {
            register: "HOST_DATA"
        }
    );
    assert_eq!(
        launched.aa.token_configs.kbs.unwrap().url,
        "https://broker:8080"
    );
    assert!(launched.aa.eventlog_config.enable_eventlog);
    assert!(launched.cdh.kbc.is_some());
    assert_eq!(launched.policy.as_deref(), Some("package agent_policy"));
    assert_eq!(launched.warnings, Vec::<String>::new());
    assert_eq!(launched.from, Some(guest.disks.path().join("vdb")));
    let attester = Attester::detect(&Devices::under(&guest.machine.root()))
        .unwrap()
        .attester;
    let prepared = Wanted::default()
        .prepare(attester, guest.launch().unwrap())
        .unwrap();
    assert_eq!(prepared.agent.initdata_register(), Some("HOST_DATA"));
}

#[test]
fn one_byte_more_and_nothing_of_it_is_read() {
    let Some(guest) = Guest::launched_with(Some(DOCUMENT)) else {
        return;
    };
    // It also has a file that cannot be read: were that told, it would have been looked into.
    let other = DOCUMENT.replace(
        "url = \"https://broker:8080\"\n[eventlog",
        "url = \n[eventlog",
    );
    guest.attach(&other);
    let error = guest.launch().unwrap_err();
    assert!(matches!(
        error,
        GuestError::Binding(BindingError::Mismatch { .. })
    ));
    let text = error.to_string();
    for part in ["HOST_DATA", "nothing of it is used", "initdata digest"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn document_that_the_host_withholds_stops_the_guest() {
    let Some(guest) = Guest::launched_with(Some(DOCUMENT)) else {
        return;
    };
    assert!(matches!(
        guest.launch(),
        Err(GuestError::Binding(BindingError::Withheld { .. }))
    ));
}

#[test]
fn document_that_the_host_adds_stops_the_guest() {
    let Some(guest) = Guest::launched_with(None) else {
        return;
    };
    assert_eq!(guest.launch().unwrap().bound, Bound::NoDocument);
    guest.attach(DOCUMENT);
    assert!(matches!(
        guest.launch(),
        Err(GuestError::Binding(BindingError::Mismatch { .. }))
    ));
}

#[test]
fn document_that_nothing_vouches_for_is_followed_as_if_measured() {
    let mut kernel = Kernel::new(|_: &Registers, _| Vec::new());
    kernel.enclave = Some("dcap");
    let Some(machine) = kernel.boot() else {
        return;
    };
    let attester = Attester::detect(&Devices::under(&machine.root()))
        .unwrap()
        .attester;
    let found = || Some(UnverifiedInitdata::new(Initdata::parse(DOCUMENT).unwrap()));
    let error = Launched::verify(&attester, found())
        .unwrap_err()
        .to_string();
    for part in ["nothing vouches", "CONFIGID", "--insecure-unbound-initdata"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(Launched::verify(&attester, None).unwrap().initdata, None);
    let launched = Launched::insecure_verify_even_unbound(&attester, found()).unwrap();
    assert!(launched.initdata.is_some());
    assert!(
        launched
            .warnings
            .iter()
            .any(|warning| warning.contains("nothing vouches"))
    );
}

#[test]
fn events_of_a_platform_without_a_register_are_an_error_and_no_panic() {
    let Some(guest) = Guest::launched_with(None) else {
        return;
    };
    let attester = Attester::detect(&Devices::under(&guest.machine.root()));
    let event = Event::new("a", "b", "c").unwrap();
    let error = attester.unwrap().attester.extend(&event, 17).unwrap_err();
    assert!(error.to_string().contains("no register"), "{error}");
}
