//! fumehood-qemu
