//! Directory watches.

use std::os::unix::fs::PermissionsExt;

use fumehood_protocol::{ActionTag, ChangeKind, GuestPath, OpId, Request, Response, Watch};

use crate::support::Agent;

#[test]
fn changes_are_reported() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let home = agent.directory.path().to_path_buf();
    std::fs::create_dir(home.join("d")).unwrap();
    client.send(&Request::Watch(Watch {
        action: ActionTag,
        op_id: OpId::try_from(9).ok(),
        path: GuestPath::new("."),
        recursive: true,
    }));
    assert!(matches!(client.response(), Response::Watching(_)));
    let mut next = || match client.response() {
        Response::Change(change) => (change.kind, change.path),
        other => panic!("{other:?}"),
    };
    let is = |kind, path: &str| (kind, path.to_string());
    std::fs::write(home.join("d/file"), "x").unwrap();
    assert_eq!(next(), is(ChangeKind::Created, "d/file"));
    assert_eq!(next(), is(ChangeKind::Modified, "d/file"));
    std::fs::rename(home.join("d/file"), home.join("moved")).unwrap();
    assert_eq!(next(), is(ChangeKind::Removed, "d/file"));
    assert_eq!(next(), is(ChangeKind::Created, "moved"));
    std::fs::create_dir(home.join("new")).unwrap();
    assert_eq!(next(), is(ChangeKind::Created, "new"));
    std::fs::write(home.join("new/in"), "").unwrap();
    assert_eq!(next(), is(ChangeKind::Created, "new/in"));
    std::fs::set_permissions(home.join("moved"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(next(), is(ChangeKind::Attributes, "moved"));
    std::fs::remove_file(home.join("moved")).unwrap();
    // First its last entry, then the directory itself.
    while next() != is(ChangeKind::Removed, "moved") {}
    client.cancel(9);
    assert!(matches!(client.response(), Response::Done(_)));
    client.send(&Request::Watch(Watch {
        action: ActionTag,
        op_id: OpId::try_from(9).ok(),
        path: GuestPath::new("new"),
        recursive: false,
    }));
    assert!(matches!(client.response(), Response::Watching(_)));
    std::fs::remove_dir_all(home.join("new")).unwrap();
    // The watched directory is gone, so the watch has ended.
    while !matches!(client.response(), Response::Done(_)) {}
    client.ping();
}
