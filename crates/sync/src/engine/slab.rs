//! Storage with stable keys: rows in one vector, freed places used again, and a key that outlives its row finds
//! nothing instead of the next tenant.

use std::collections::HashMap;
use std::sync::Arc;

/// Names a row. The upper half counts the tenants of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    place: u32,
    tenant: u32,
}

/// Rows by key.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

/// Rows by name, and by key.
#[derive(Debug)]
pub(crate) struct Table<T> {
    names: HashMap<Arc<str>, Key>,
    rows: Slab<(Arc<str>, T)>,
}

#[derive(Debug)]
struct Place<T> {
    tenant: u32,
    row: Option<T>,
}

// === impl Key ===

impl Key {
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.tenant) << 32 | u64::from(self.place)
    }

    pub(crate) fn place(self) -> usize {
        self.place as usize
    }
}

// === impl Slab ===

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, row: T) -> Key {
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place as usize];
            slot.tenant = slot.tenant.wrapping_add(1);
            slot.row = Some(row);
            return Key { place, tenant: slot.tenant };
        }
        let place = u32::try_from(self.places.len()).expect("fewer than 2^32 rows fit into memory");
        self.places.push(Place { tenant: 0, row: Some(row) });
        Key { place, tenant: 0 }
    }

    pub(crate) fn row(&self, key: Key) -> Option<&T> {
        self.places.get(key.place()).filter(|p| p.tenant == key.tenant)?.row.as_ref()
    }

    pub(crate) fn row_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.place()).filter(|p| p.tenant == key.tenant)?.row.as_mut()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.places.get_mut(key.place()).filter(|p| p.tenant == key.tenant)?;
        let row = slot.row.take()?;
        self.free.push(key.place);
        Some(row)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let key = Key { place: place as u32, tenant: slot.tenant };
            slot.row.as_ref().map(|row| (key, row))
        })
    }
}

// === impl Table ===

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { names: HashMap::new(), rows: Slab::default() }
    }
}

impl<T> Table<T> {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn key(&self, name: &str) -> Option<Key> {
        self.names.get(name).copied()
    }

    pub(crate) fn insert(&mut self, name: &str, row: T) -> Key {
        let name: Arc<str> = name.into();
        let key = self.rows.insert((name.clone(), row));
        self.names.insert(name, key);
        key
    }

    pub(crate) fn row(&self, key: Key) -> Option<&T> {
        self.rows.row(key).map(|(_, row)| row)
    }

    pub(crate) fn row_mut(&mut self, key: Key) -> Option<&mut T> {
        self.rows.row_mut(key).map(|(_, row)| row)
    }

    pub(crate) fn name(&self, key: Key) -> Option<&Arc<str>> {
        self.rows.row(key).map(|(name, _)| name)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<(Arc<str>, T)> {
        let (name, row) = self.rows.remove(key)?;
        self.names.remove(&name);
        Some((name, row))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Arc<str>, &T)> {
        self.rows.iter().map(|(key, (name, row))| (key, name, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_the_next_tenant() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(first.place(), second.place());
        assert_eq!(slab.row(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.row(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }
}
