//! Who may speak with whom: rules, and the one function that decides by them. No I/O, no clock.
