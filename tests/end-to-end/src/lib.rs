//! fumehood-end-to-end
