//! `docs/uapi.md` names what this crate has, with the same numbers.

use penstock_uapi::{CLIENTS_MAX, FRAME_BYTES_MAX, Kind, Role, Status};

#[test]
fn the_page_names_every_kind_status_and_role_with_its_number() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/uapi.md");
    let page = std::fs::read_to_string(path).expect("docs/uapi.md");
    let mut rows = 0;
    let mut row = |name: &str, number: u32| {
        rows += 1;
        assert!(page.contains(&format!("\n| `{name}` | {number} | ")), "{name} {number}");
    };
    for kind in Kind::ALL {
        row(&format!("{kind:?}"), *kind as u32);
    }
    for status in Status::ALL {
        row(&format!("{status:?}"), *status as u32);
    }
    for role in Role::ALL {
        row(role.name(), role.bit());
    }
    assert_eq!(page.matches("\n| `").count(), rows, "nothing else is named");
    assert!(page.contains("at most 66,000 bytes") && FRAME_BYTES_MAX == 66_000);
    assert!(page.contains(&format!("up to {CLIENTS_MAX} clients")));
}
