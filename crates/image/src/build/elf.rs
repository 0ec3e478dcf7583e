//! Checks that a file can run as the first process of a guest that has no libraries yet.

use std::path::Path;

use crate::Error;

const HEADER_BYTES: usize = 64;
const MACHINE_X86_64: u16 = 62;
/// The type of the program header that names a dynamic loader.
const SEGMENT_INTERPRETER: u32 = 3;

/// Returns an error unless `bytes` are a static 64-bit x86 program.
pub(crate) fn check_static(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let reject = |reason| {
        Err(Error::Agent {
            path: path.to_path_buf(),
            reason,
        })
    };

    if bytes.len() < HEADER_BYTES || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return reject("it is not a 64-bit ELF program");
    }

    if read_u16(bytes, 18) != Some(MACHINE_X86_64) {
        return reject("it is not a program for x86-64");
    }

    match has_dynamic_loader(bytes) {
        Some(false) => Ok(()),
        Some(true) => {
            reject("it is dynamically linked, but the guest has no libraries when it starts")
        }
        None => reject("its program headers are truncated"),
    }
}

fn has_dynamic_loader(bytes: &[u8]) -> Option<bool> {
    // The program headers' offset, size and number.
    let table = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (
        usize::from(read_u16(bytes, 54)?),
        usize::from(read_u16(bytes, 56)?),
    );

    for index in 0..count {
        let at = table.checked_add(size.checked_mul(index)?)?;
        let kind = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        if u32::from_le_bytes(kind) == SEGMENT_INTERPRETER {
            return Some(true);
        }
    }

    Some(false)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&62u16.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes
    }

    #[test]
    fn accepts_only_a_static_program() {
        let path = Path::new("agent");
        assert!(check_static(path, &program(1)).is_ok());
        let message = |bytes: &[u8]| check_static(path, bytes).unwrap_err().to_string();
        assert!(message(&program(3)).contains("dynamically"));
        assert!(message(b"#!/bin/sh\n").contains("not a 64-bit ELF"));
        assert!(message(&program(1)[..66]).contains("truncated"));
    }
}
