//! A model of others. One that is accepted scores a row.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::model::Network;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(network) = Network::parse(bytes) {
        let row = vec![0.0; network.width()];
        if let Ok(mut scorer) = network.scorer() {
            scorer.score(&row, &mut Vec::new()).ok();
        }
    }
});
