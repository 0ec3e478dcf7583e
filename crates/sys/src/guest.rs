//! What the agent needs inside a VM.
