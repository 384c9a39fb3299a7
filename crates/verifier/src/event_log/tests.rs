//! Recorded logs, and one wrong field each of a made one.

use super::*;
use crate::dcap::tests::recorded;

const LOGS: &str = "eventlog/test_data";

fn read(name: &str) -> Option<Vec<u8>> {
    recorded(&format!("{LOGS}/{name}"))
}

#[test]
fn recorded_logs_replay_to_their_machines_registers() {
    let zero = "0".repeat(96);
    for (name, rtmr_0, rtmr_1, rtmr_2) in [
        (
            "CCEL_data",
            "2dc712306a963eadb894ad47dbaa17df44814151555aee11cbb843becca88950ffd079664902e6f22c66f7c8213543f4",
            "0fa3be56af61208bbd179dc7b124988eb929319154663c539d6f46445ecac2fec287075047ff7bd1922829fec28cd3cf",
            zero.as_str(),
        ),
        (
            "CCEL_data_ovmf",
            "8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
            "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
            "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
        ),
        (
            "CCEL_data_grub",
            "cec0a104f691f60da2387fea3c2de00c4ac035e2bb479ff02edcce69039d9e9907f0b3e55031da3dc7038f423adebd79",
            "6c289e0c62182d41ebe97bdbc9872d10998a08eaa86adcdc684001a363207ee72942c7522cdf00a4bbc3d784bed7b670",
            "08919d017ba0e52cd6d966351c7de16fe76c1d3d3d3da4554239e4c7d16cb8b82a94e7eaea3a0e6e18eb690b999fd31e",
        ),
        (
            "CCEL_data_gcp",
            "3300980705adf09d28b707b79699d9874892164280832be2c386a715b6e204e0897fb564a064f810659207ba862b304f",
            "204d49f78d29918fe7b2f694e76653861a0c2a018987d2c3a54266eff737232524cf0af68c4d180e2f8c2c0937f21967",
            zero.as_str(),
        ),
        (
            "CCEL_data_grub_gke",
            "bc9945139042cf2cc75caf920aa57f14884ecfd7e893bccc51250c8ce90eb53ce72741e6adaa18183eb1331a87d4544a",
            "c17cb288a4dee302bb9ed8d27257a168f3264ad68cab53757f37eeaa7039657fa887cad65cf910e0fdc435ff110f8a7b",
            "334aeba2c985f8886cea97d1ecffbd512769d528b9a94009583db667ad7d2faa7d37fa145d75b192ceee2d2f10b2eb6d",
        ),
    ] {
        let Some(log) = read(name) else { return };
        let expected = [rtmr_0, rtmr_1, rtmr_2, zero.as_str()];
        assert_eq!(
            replay_rtmrs(&log).unwrap().map(hex::encode),
            expected,
            "{name}"
        );
    }
}

#[test]
fn recorded_logs_parse_to_upstreams_claims() {
    for name in [
        "CCEL_data",
        "CCEL_data_ovmf",
        "CCEL_data_grub",
        "CCEL_data_grub_gke",
        "CCEL_AAEL_alibabacloud",
        "CCEL_data_csv",
    ] {
        let (Some(log), Some(expected)) = (read(name), read(&format!("{name}_out.json"))) else {
            return;
        };
        let mut expected: Value = serde_json::from_slice(&expected).unwrap();
        let log = EventLog::parse(&log).unwrap();
        let Value::Array(claims) = log.claims() else {
            panic!("a list");
        };
        let expected = expected["uefi_event_logs"].as_array_mut().unwrap();
        assert_eq!(claims.len(), expected.len(), "{name}");
        for (position, (claim, expected)) in claims.iter().zip(expected).enumerate() {
            if claim["digests"][0]["alg"] == "SM3" {
                // Nothing here computes SM3, so nothing is said to match it.
                expected["digest_matches_event"] = json!(false);
            }
            assert_eq!(claim, expected, "{name}, event {position}");
        }
    }
}

#[test]
fn log_with_a_flipped_digest_gives_another_register() {
    let Some(log) = read("CCEL_data_ovmf") else {
        return;
    };
    let before = replay_rtmrs(&log).unwrap();
    let first = EventLog::parse(&log).unwrap().events()[0].digests[0]
        .1
        .clone();
    let place = log.windows(48).position(|window| window == first).unwrap();
    for offset in 0..48 {
        let mut flipped = log.clone();
        flipped[place + offset] ^= 1;
        assert_ne!(replay_rtmrs(&flipped).unwrap()[0], before[0], "{offset}");
    }
}

#[test]
fn log_that_is_cut_within_an_event_is_refused() {
    let Some(log) = read("CCEL_data_ovmf") else {
        return;
    };
    let parsed = EventLog::parse(&log).unwrap();
    let mut ends = 0;
    for length in 0..2_000 {
        match EventLog::parse(&log[..length]) {
            // A log may end after any event, and a few zeros are no event yet.
            Ok(cut) => {
                assert!(parsed.events().starts_with(cut.events()));
                ends += 1;
            }
            Err(EventLogError::Truncated { .. } | EventLogError::SpecificationId(_)) => {}
            Err(other) => panic!("{length}: {other}"),
        }
    }
    assert!(ends < 60, "{ends}");
}

/// A log of one algorithm, as firmware writes it.
fn log(algorithm: u16, size: u16, events: &[u8]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    header.extend(1_u32.to_le_bytes());
    header.extend(algorithm.to_le_bytes());
    header.extend(size.to_le_bytes());
    header.push(0);
    let mut log = 0_u32.to_le_bytes().to_vec();
    log.extend(3_u32.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    log.extend(header);
    log.extend(events);
    log
}

fn event(register: u32, kind: u32, algorithm: u16, digest: &[u8], data: &[u8]) -> Vec<u8> {
    let mut event = register.to_le_bytes().to_vec();
    event.extend(kind.to_le_bytes());
    event.extend(1_u32.to_le_bytes());
    event.extend(algorithm.to_le_bytes());
    event.extend(digest);
    event.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    event.extend(data);
    event
}

#[test]
fn pcrs_are_extended_in_their_order_from_zeros() {
    let bank = DigestAlgorithm::Sha256;
    let (one, two) = (vec![1; 32], vec![2; 32]);
    let events = [
        event(4, 4, 0x0b, &one, b""),
        event(7, 4, 0x0b, &two, b""),
        event(4, 4, 0x0b, &two, b""),
    ];
    let pcrs = replay_pcrs(&log(0x0b, 32, &events.concat()), bank).unwrap();
    let extend = |old: &[u8], digest: &[u8]| bank.extend(old, digest).unwrap();
    let expected = BTreeMap::from([
        (4, extend(&extend(&[0; 32], &one), &two)),
        (7, extend(&[0; 32], &two)),
    ]);
    assert_eq!(pcrs, expected);
}

#[test]
fn pcr_0_starts_from_the_startup_locality() {
    let bank = DigestAlgorithm::Sha256;
    let events = [
        event(0, EV_NO_ACTION, 0x0b, &[0; 32], b"StartupLocality\0\x03"),
        event(0, 8, 0x0b, &[1; 32], b""),
    ];
    let mut start = vec![0; 32];
    start[31] = 3;
    assert_eq!(
        replay_pcrs(&log(0x0b, 32, &events.concat()), bank).unwrap()[&0],
        bank.extend(&start, &[1; 32]).unwrap()
    );
}

#[test]
fn dynamic_pcrs_start_from_ones() {
    let bank = DigestAlgorithm::Sha256;
    let events = event(17, 8, 0x0b, &[1; 32], b"");
    assert_eq!(
        replay_pcrs(&log(0x0b, 32, &events), bank).unwrap()[&17],
        bank.extend(&[0xff; 32], &[1; 32]).unwrap()
    );
}

#[test]
fn event_that_takes_no_action_extends_nothing() {
    let events = event(1, EV_NO_ACTION, 0x0c, &[0; 48], b"");
    assert_eq!(replay_rtmrs(&log(0x0c, 48, &events)).unwrap(), [[0; 48]; 4]);
}

#[test]
fn digest_that_nothing_measured_is_refused() {
    let events = event(2, EV_NO_ACTION, 0x0c, &[1; 48], b"");
    assert_eq!(
        replay_rtmrs(&log(0x0c, 48, &events)).unwrap_err(),
        EventLogError::Unmeasured { event: 0 }
    );
}

#[test]
fn digest_of_a_bank_that_was_not_replayed_is_no_claim() {
    let event = Event {
        register: 2,
        kind: EV_EFI_BOOT_SERVICES_APPLICATION,
        digests: vec![
            (DigestAlgorithm::Sha256, vec![7; 32]),
            (DigestAlgorithm::Sha384, vec![1; 48]),
        ],
        data: Vec::new(),
    };
    let log = EventLog {
        events: vec![event],
        startup_locality: 0,
    };
    let claims = log.with_bank_alone(DigestAlgorithm::Sha384).claims();
    assert_eq!(
        claims[0]["digests"],
        json!([{"alg": "SHA-384", "digest": "01".repeat(48)}])
    );
}

#[test]
fn register_that_there_is_not_is_refused() {
    for (register, replayable) in [
        (0, false),
        (1, true),
        (4, true),
        (5, false),
        (u32::MAX, false),
    ] {
        let events = event(register, 4, 0x0c, &[1; 48], b"");
        assert_eq!(
            replay_rtmrs(&log(0x0c, 48, &events)).is_ok(),
            replayable,
            "{register}"
        );
    }
    let events = event(24, 4, 0x0b, &[1; 32], b"");
    assert_eq!(
        replay_pcrs(&log(0x0b, 32, &events), DigestAlgorithm::Sha256).unwrap_err(),
        EventLogError::Register {
            event: 0,
            register: 24
        }
    );
}

#[test]
fn event_without_the_banks_digest_is_refused() {
    let events = event(1, 4, 0x0b, &[1; 32], b"");
    assert_eq!(
        replay_rtmrs(&log(0x0b, 32, &events)).unwrap_err(),
        EventLogError::NoDigest {
            event: 0,
            bank: "SHA-384"
        }
    );
}

#[test]
fn bank_that_is_not_computed_is_refused() {
    let events = event(1, 4, 0x04, &[1; 20], b"");
    assert_eq!(
        replay_pcrs(&log(0x04, 20, &events), DigestAlgorithm::Sha1).unwrap_err(),
        EventLogError::Bank("SHA-1")
    );
}

#[test]
fn digest_of_an_undeclared_algorithm_is_refused() {
    let events = event(1, 4, 0x0b, &[1; 32], b"");
    assert_eq!(
        EventLog::parse(&log(0x0c, 48, &events)).unwrap_err(),
        EventLogError::Undeclared {
            event: 0,
            algorithm: 0x0b
        }
    );
}

#[test]
fn declared_size_that_is_not_the_algorithms_is_refused() {
    assert!(matches!(
        EventLog::parse(&log(0x0c, 0xffff, b"")),
        Err(EventLogError::SpecificationId(_))
    ));
}

#[test]
fn huge_counts_and_lengths_are_refused_without_memory() {
    let mut counts = 1_u32.to_le_bytes().to_vec();
    counts.extend(4_u32.to_le_bytes());
    counts.extend(u32::MAX.to_le_bytes());
    assert!(EventLog::parse(&log(0x0c, 48, &counts)).is_err());
    let mut lengths = event(1, 4, 0x0c, &[1; 48], b"");
    let end = lengths.len();
    lengths[end - 4..].fill(0xff);
    assert_eq!(
        EventLog::parse(&log(0x0c, 48, &lengths)).unwrap_err(),
        EventLogError::Truncated { event: 0 }
    );
    assert!(matches!(
        EventLog::parse(&vec![0; MAX_LOG + 1]),
        Err(EventLogError::TooLong { .. })
    ));
}

#[test]
fn bytes_after_the_end_of_a_log_are_refused() {
    let mut events = vec![0xff; 16];
    events.extend(event(1, 4, 0x0c, &[1; 48], b""));
    assert_eq!(
        EventLog::parse(&log(0x0c, 48, &events)).unwrap_err(),
        EventLogError::Trailing(events.len())
    );
}

#[test]
fn log_of_sha_1_only_form_is_refused() {
    let mut old = log(0x0c, 48, b"");
    let place = old.windows(2).position(|window| window == b"03").unwrap();
    old[place + 1] = b'0';
    assert_eq!(
        EventLog::parse(&old).unwrap_err(),
        EventLogError::SpecificationId("it has another signature")
    );
}

#[test]
fn data_of_another_form_than_its_types_has_no_details() {
    let many = [0xff; 64];
    for (kind, _) in EVENT_NAMES {
        for length in 0..many.len() {
            drop(details::details(*kind, &many[..length]));
        }
    }
    assert_eq!(details::details(EV_EVENT_TAG, &many), json!({}));
    assert_eq!(details::details(EV_EFI_VARIABLE_BOOT, &many), json!({}));
}
