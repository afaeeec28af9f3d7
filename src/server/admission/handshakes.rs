//! Sockets that are not connections yet, and whose they are: pure, and bounded in number.
//!
//! As long as there is room everybody gets in. When there is none, room is made for whoever has clearly less of it than
//! others: the oldest socket goes of the address that has most. Whoever has most, or nearly so, is turned away. So one
//! address has all the room as long as nobody else wants any, and keeps nobody out. Where all come from one address
//! the newest are turned away and none is interrupted: a storm of clients behind one address is worked off in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::identity::Identity;

/// How many fewer an address must have than another to be let in in its place: then it has no more than the other one
/// afterwards, and two addresses do not take each other's places in turn.
const CLEARLY_FEWER: usize = 2;

/// Whose a fresh socket is, as far as is known before it has said anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of its own.
    Client(ClientOrigin),
    /// A trusted proxy, through which everybody comes: it has no share.
    Proxy,
}

/// A client that is known by the address of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientOrigin(pub(super) Identity);

/// What becomes of a fresh socket.
#[derive(Debug, PartialEq)]
pub(crate) enum Room<S> {
    /// There is room for it.
    Free,
    /// There is room for it in the place of this one, which is to be dropped.
    InPlaceOf(S),
    /// It is to be dropped.
    None,
}

/// The sockets that are not connections yet: `K` tells them apart, `S` is what is needed to drop one.
#[derive(Debug)]
pub(crate) struct Handshakes<K, S> {
    max: usize,
    places: HashMap<K, Place<S>>,
    /// Those of clients, the oldest of each first.
    of_clients: BTreeMap<(ClientOrigin, u64), (K, S)>,
    counts: BTreeMap<ClientOrigin, usize>,
    /// The same counts, the largest last.
    by_count: BTreeSet<(usize, ClientOrigin)>,
    next: u64,
}

#[derive(Debug)]
enum Place<S> {
    OfClient(ClientOrigin, u64),
    /// It is kept, and makes room for nobody.
    OfProxy {
        _socket: S,
    },
}

impl<K: Copy + Eq + Hash, S> Handshakes<K, S> {
    /// Room for so many.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            places: HashMap::new(),
            of_clients: BTreeMap::new(),
            counts: BTreeMap::new(),
            by_count: BTreeSet::new(),
            next: 0,
        }
    }

    /// Makes room for another socket, if there is to be any. To be followed by [`Self::begin`].
    pub(crate) fn make_room(&mut self, origin: Origin) -> Room<S> {
        if self.places.len() < self.max {
            return Room::Free;
        }
        match self.drop_one_for(origin) {
            Some(dropped) => Room::InPlaceOf(dropped),
            None => Room::None,
        }
    }

    fn drop_one_for(&mut self, origin: Origin) -> Option<S> {
        let (most, largest) = *self.by_count.last()?;
        let own = match origin {
            Origin::Client(client) => self.count_of(client),
            Origin::Proxy => 0,
        };
        if most < own + CLEARLY_FEWER {
            return None;
        }
        let (&oldest, &(key, _)) = self.of_clients.range((largest, 0)..).next()?;
        self.places.remove(&key);
        self.remove_of_client(oldest)
    }

    /// Takes in a socket for which there is room.
    pub(crate) fn begin(&mut self, origin: Origin, key: K, socket: S) {
        let place = match origin {
            Origin::Proxy => Place::OfProxy { _socket: socket },
            Origin::Client(client) => {
                self.set_count(client, self.count_of(client) + 1);
                self.of_clients.insert((client, self.next), (key, socket));
                Place::OfClient(client, self.next)
            }
        };
        self.next += 1;
        self.places.insert(key, place);
    }

    /// A socket has become a connection, or nothing. One that was dropped to make room is known no more.
    pub(crate) fn end(&mut self, key: K) {
        if let Some(Place::OfClient(client, number)) = self.places.remove(&key) {
            self.remove_of_client((client, number));
        }
        if self.places.is_empty() {
            // What a storm has taken is given back.
            self.places.shrink_to_fit();
        }
    }

    fn remove_of_client(&mut self, place: (ClientOrigin, u64)) -> Option<S> {
        let (_, socket) = self.of_clients.remove(&place)?;
        self.set_count(place.0, self.count_of(place.0).saturating_sub(1));
        Some(socket)
    }

    fn count_of(&self, client: ClientOrigin) -> usize {
        self.counts.get(&client).copied().unwrap_or(0)
    }

    fn set_count(&mut self, client: ClientOrigin, count: usize) {
        if let Some(before) = self.counts.remove(&client) {
            self.by_count.remove(&(before, client));
        }
        if count > 0 {
            self.counts.insert(client, count);
            self.by_count.insert((count, client));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn client(number: u32) -> Origin {
        Origin::Client(ClientOrigin(Identity::Address(Ipv4Addr::from_bits(number))))
    }

    /// A table whose sockets are called by numbers.
    struct Door {
        table: Handshakes<u32, u32>,
        next: u32,
    }

    impl Door {
        fn new(max: usize) -> Self {
            Self {
                table: Handshakes::new(max),
                next: 0,
            }
        }

        /// Lets a socket in, if it may. Gives its number, and which one had to go.
        fn come(&mut self, origin: Origin) -> Option<(u32, Option<u32>)> {
            let dropped = match self.table.make_room(origin) {
                Room::None => return None,
                Room::Free => None,
                Room::InPlaceOf(dropped) => Some(dropped),
            };
            let number = self.next;
            self.next += 1;
            self.table.begin(origin, number, number);
            self.check();
            Some((number, dropped))
        }

        fn come_often(&mut self, origin: Origin, times: usize) -> usize {
            (0..times).filter(|_| self.come(origin).is_some()).count()
        }

        fn count(&self, origin: Origin) -> usize {
            match origin {
                Origin::Client(client) => self.table.count_of(client),
                Origin::Proxy => self.table.places.len() - self.table.of_clients.len(),
            }
        }

        fn check(&self) {
            let table = &self.table;
            assert!(table.places.len() <= table.max);
            assert_eq!(table.counts.values().sum::<usize>(), table.of_clients.len());
            assert_eq!(table.counts.len(), table.by_count.len());
            assert!(
                table
                    .by_count
                    .iter()
                    .all(|(count, client)| table.counts[client] == *count && *count > 0)
            );
            for (number, place) in &table.places {
                if let Place::OfClient(client, place) = place {
                    assert_eq!(table.of_clients[&(*client, *place)].0, *number);
                }
            }
        }
    }

    #[test]
    fn one_address_has_all_the_room_and_keeps_nobody_out() {
        let mut door = Door::new(500);
        assert_eq!(door.come_often(client(1), 600), 500);
        for number in 0..10 {
            assert_eq!(door.come(client(2)), Some((500 + number, Some(number))), "the oldest goes");
        }
        assert_eq!(door.come(client(1)), None);
        assert_eq!((door.count(client(1)), door.count(client(2))), (490, 10));
    }

    #[test]
    fn clients_of_one_address_wait_for_those_before_them_and_interrupt_none() {
        let mut door = Door::new(100);
        let mut waiting: std::collections::VecDeque<_> = (0..100).map(|_| door.come(client(1)).unwrap().0).collect();
        for _ in 0..1_000 {
            assert_eq!(door.come(client(1)), None);
            door.table.end(waiting.pop_front().unwrap());
            let (number, dropped) = door.come(client(1)).unwrap();
            assert_eq!(dropped, None);
            waiting.push_back(number);
        }
    }

    #[test]
    fn whoever_wants_more_than_others_gets_as_much_as_they_and_takes_no_place_in_turn() {
        let mut door = Door::new(100);
        door.come_often(client(1), 100);
        assert_eq!(door.come_often(client(2), 1_000), 50);
        assert_eq!(door.come_often(client(3), 1_000), 33);
        assert_eq!([1, 2, 3].map(|number| door.count(client(number))), [34, 33, 33]);
        assert_eq!([1, 2, 3].map(|number| door.come_often(client(number), 10)), [0, 0, 0]);
    }

    #[test]
    fn those_behind_a_proxy_are_not_one_client() {
        let mut door = Door::new(100);
        assert_eq!(door.come_often(Origin::Proxy, 100), 100);
        assert_eq!(door.come(client(1)), None, "nobody is known to have most");
        door.table.end(0);
        door.table.end(1);
        assert_eq!(door.come_often(client(1), 3), 2);
        assert_eq!(door.come(Origin::Proxy), Some((102, Some(100))));
        assert_eq!(door.come(Origin::Proxy), None, "an address with a single one keeps it");
        assert_eq!((door.count(Origin::Proxy), door.count(client(1))), (99, 1));
    }

    #[test]
    fn what_drops_a_socket_is_kept_until_it_ends_or_has_to_go() {
        let alive = std::rc::Rc::new(());
        for origin in [Origin::Proxy, client(1)] {
            let mut table = Handshakes::new(10);
            table.begin(origin, 1, std::rc::Rc::clone(&alive));
            assert_eq!(std::rc::Rc::strong_count(&alive), 2, "{origin:?}");
            table.end(1);
            assert_eq!(std::rc::Rc::strong_count(&alive), 1, "{origin:?}");
        }
    }

    #[test]
    fn what_a_storm_has_taken_is_given_back() {
        let mut table = Handshakes::new(10_000);
        for number in 0..10_000 {
            assert_eq!(table.make_room(client(number / 3)), Room::Free);
            table.begin(client(number / 3), number, ());
        }
        (0..10_000).for_each(|number| table.end(number));
        assert!(table.places.capacity() < 100 && table.of_clients.is_empty());
        assert!(table.counts.is_empty() && table.by_count.is_empty());
    }

    proptest! {
        /// Whatever happens, nobody is turned away who has clearly less than somebody else, and nobody goes who has not
        /// clearly more.
        #[test]
        fn room_is_made_for_those_who_have_less(max in 1_usize..12, steps in prop::collection::vec((0_u32..5, 0_usize..20), 1..120)) {
            let mut door = Door::new(max);
            let mut open: Vec<(u32, Origin)> = Vec::new();
            for (who, what) in steps {
                if what > 14 && !open.is_empty() {
                    let (number, _) = open.swap_remove(what % open.len());
                    door.table.end(number);
                    door.check();
                    continue;
                }
                let origin = if who == 0 { Origin::Proxy } else { client(who) };
                let counted = |origin| open.iter().filter(|(_, other)| *other == origin).count();
                let own = if origin == Origin::Proxy { 0 } else { counted(origin) };
                let most = (1..5).map(|who| counted(client(who))).max().unwrap_or(0);
                match door.come(origin) {
                    Some((number, None)) => {
                        prop_assert!(open.len() < max);
                        open.push((number, origin));
                    }
                    Some((number, Some(dropped))) => {
                        prop_assert!(open.len() == max && most >= own + 2);
                        let at = open.iter().position(|(number, _)| *number == dropped).unwrap();
                        let (_, whose) = open[at];
                        let oldest = open.iter().filter(|(_, other)| *other == whose).map(|(number, _)| *number).min();
                        prop_assert!(counted(whose) == most && oldest == Some(dropped));
                        open.remove(at);
                        open.push((number, origin));
                    }
                    None => prop_assert!(open.len() == max && most < own + 2),
                }
            }
        }
    }
}
