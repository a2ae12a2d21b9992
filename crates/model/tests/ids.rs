//! What groups may not be called, and why.

mod common;

use common::error;

#[test]
fn an_id_is_refused_by_the_rule_that_it_breaks() {
    for (id, says) in [
        ("..", "\"..\" can't be an id: as the name of a folder it means another one"),
        ("region:x", "\"region:x\" can't be an id: in a selector `region:` stands for a region"),
        ("a*", "\"a*\" can't be an id: 1 to 200 bytes, no `/`"),
        ("run.json", "\"run.json\" can't be the id of a group: in a run's outputs"),
        ("build", "something else is called so"),
    ] {
        let (line, column, message) =
            error(&format!("[[groups]]\nid = \"{id}\"\ninstances = {{ count = 1 }}\n"));
        assert!((line, column) == (2, 6) && message.contains(says), "{id}: {message}");
    }
}
