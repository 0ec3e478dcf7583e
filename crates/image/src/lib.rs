//! fumehood-image
