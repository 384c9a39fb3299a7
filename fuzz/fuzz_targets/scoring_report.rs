//! A result file, made into its owner's page: whatever it holds, no text of it becomes markup.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::report::{Options, Report};

fuzz_target!(|bytes: &[u8]| {
    let options = Options {
        top: 5,
        ..Options::default()
    };
    if let Ok(report) = Report::read(bytes, &options) {
        let page = report.page().expect("a page");
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
    }
});
