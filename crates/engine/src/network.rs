use std::sync::{Mutex, PoisonError};

use tokio::net::UnixStream;

/// What a VM's network card is connected to. Dropping it ends all of the guest's connections.
#[derive(Debug)]
pub(crate) struct Network {
    /// The host's end of the cable. Unread it fills, and the guest's card waits: nothing else does.
    cable: Mutex<Option<UnixStream>>,
}

impl Network {
    /// Connects a card. GATEWAY: every VM with a card comes by here, whether it runs one program or is a sandbox;
    /// here the gateway is started on its cable.
    pub(crate) fn begin(cable: UnixStream) -> Self {
        Self {
            cable: Mutex::new(Some(cable)),
        }
    }

    /// The cable, once, for a test that is the other end itself.
    pub(crate) fn take(&self) -> Option<UnixStream> {
        let mut cable = self.cable.lock().unwrap_or_else(PoisonError::into_inner);
        cable.take()
    }
}
