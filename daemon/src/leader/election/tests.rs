//! Several candidates against one Lease in a time of the test's own: calls take long, get lost on the way there or back,
//! processes are stopped and go on, clocks run apart.

use super::*;
