//! A receipt, as whoever verifies it is handed it, and the statement behind its signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::receipt::{Statement, UnverifiedReceipt};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = UnverifiedReceipt::parse(bytes)
        && let Ok(receipt) = receipt.verify()
    {
        assert_eq!(receipt.report_data().len(), 48);
    }
    // A fuzzer does not sign; what only a good signature leads to is read as well.
    if let Ok(statement) = Statement::parse(bytes) {
        assert_eq!(statement.result_sha256().len(), 64);
        assert!(!statement.result_name().is_empty());
    }
});
