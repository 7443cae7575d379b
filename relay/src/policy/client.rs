//! Who a client is, as far as its address tells. No I/O.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list of networks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// From texts such as `10.0.0.0/8` or `192.0.2.1`. The first bad one comes back.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        let network = |text: &String| {
            let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            parsed.map_err(|_| text.clone())
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in one of them. An IPv4 client is the same on an IPv6 socket.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_or_a_range_of_them() {
        let networks = Networks::new(&["10.0.0.0/8".into(), "192.0.2.1".into(), "2001:db8::/32".into()]).unwrap();
        for (address, inside) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), inside, "{address}");
        }
    }
}
