//! Requests in the wrong order.
