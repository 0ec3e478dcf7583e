//! What the engine needs around QEMU.
