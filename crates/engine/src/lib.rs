//! fumehood-engine
