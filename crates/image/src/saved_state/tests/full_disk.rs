//! A full disk: a real one of one megabyte, where the test may mount it.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

#[test]
fn a_disk_that_fills_up_is_reported_with_what_is_missing_and_nothing_remains() {
    let directory = tempfile::tempdir().unwrap();
    let states = directory.path().join("store/states");
    fs::create_dir_all(&states).unwrap();
    let mounted = mount(
        "none",
        &states,
        "tmpfs",
        MountFlags::empty(),
        c"size=1m,mode=700",
    );
    if let Err(error) = mounted {
        println!("skipped: a disk cannot be mounted here ({error})");
        return;
    }

    let setup = Setup::at(directory.path());
    let pages = |count: u64| {
        move |writer: &mut PageWriter<'_>| {
            (0..count).try_for_each(|page| writer.push(page * PAGE as u64, &[7; PAGE]))
        }
    };
    let error = setup.save_pages("full", 1 << 20, pages(256)).unwrap_err();
    let missing = matches!(error, Error::InsufficientSpace { available, required, .. } if available <= 1 << 20 && required > 1 << 20);
    assert!(missing, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(states.to_str().unwrap()) && text.contains("free some space"),
        "{text}"
    );
    assert!(setup.states.list().unwrap().is_empty() && !setup.store.has_leftovers());

    // A small one still fits, and is resumed on the full disk.
    let id = setup
        .save_pages("small", 1 << 14, pages(4))
        .unwrap()
        .manifest
        .id;
    let _ = fs::write(states.join("filler"), vec![1; 1 << 20]);
    let claim = setup.states.claim(&id).unwrap();
    assert_eq!(memory_of(claim.open().unwrap())[0], 7);
    claim.consume().unwrap();
    unmount(&states, UnmountFlags::DETACH).unwrap();
}
