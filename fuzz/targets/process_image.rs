//! Checks arbitrary descriptions of process images. What passes can be continued without overwriting the continuation.
#![no_main]

use fumehood_qemu::ProcessImage;
use fumehood_sys::host::{CONTINUATION_BYTES, CONTINUATION_START};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    const FILES: usize = 4;
    const PASSED: usize = 4;

    let Ok(image) = serde_json::from_slice::<ProcessImage>(bytes) else {
        return;
    };
    if image.check(FILES, PASSED).is_err() {
        return;
    }

    let mut end = 0;
    for mapping in &image.mappings {
        assert!(mapping.address >= end && mapping.bytes > 0);
        assert!(mapping.file.is_none_or(|file| file < FILES));
        end = mapping.end();
        assert!(
            end <= CONTINUATION_START || mapping.address >= CONTINUATION_START + CONTINUATION_BYTES
        );
    }
    assert!(!image.threads.is_empty());
});
