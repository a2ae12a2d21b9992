//! What a run is made of: manifests, compositions, link shapes, events and outcomes. No input or output.
