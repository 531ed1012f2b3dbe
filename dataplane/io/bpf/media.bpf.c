// Which frames of an interface go to the dataplane's AF_XDP sockets: UDP to an address and port that a stream has open, and
// nothing else. All other frames go on to the kernel as if this program were not there: other ports, other addresses, TCP,
// ARP, fragments, IPv4 options, IPv6 extension headers, a third VLAN tag, frames for another MAC.
//
// `scripts/bpf build` makes media.bpf.o of it, which is committed. Loaded by src/xdp/program.rs, one copy an interface.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// More tags than a provider's and a customer's are not expected on a media interface.
#define VLAN_TAGS_MAX 2
// More fragments, or an offset: RFC 791.
#define FRAGMENT 0x3fff

// An open port. IPv4 addresses are mapped, ::ffff:a.b.c.d. The same 20 bytes are made in src/xdp/program.rs.
struct local {
    __u8 ip[16];
    __be16 port;
    __u16 zero;
};
_Static_assert(sizeof(struct local) == 20, "the key of `open`");

struct vlan_tag {
    __be16 id;
    __be16 protocol;
};

// What streams have open. The loader sets the size.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct local);
    __type(value, __u32);
} open SEC(".maps");

// The AF_XDP socket of each queue. The loader sets the size.
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

// The interface's own address. The loader sets it.
const volatile __u8 mac[ETH_ALEN] = {};

static __always_inline int is_ours(const __u8 *destination) {
    int differs = 0;
    for (int i = 0; i < ETH_ALEN; i++)
        differs |= destination[i] ^ mac[i];
    return !differs;
}

SEC("xdp")
int media(struct xdp_md *context) {
    void *at = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;

    struct ethhdr *ethernet = at;
    if ((void *)(ethernet + 1) > end || !is_ours(ethernet->h_dest))
        return XDP_PASS;
    __be16 protocol = ethernet->h_proto;
    at = ethernet + 1;
#pragma unroll
    for (int i = 0; i < VLAN_TAGS_MAX; i++) {
        if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
            break;
        struct vlan_tag *tag = at;
        if ((void *)(tag + 1) > end)
            return XDP_PASS;
        protocol = tag->protocol;
        at = tag + 1;
    }

    struct local local = {};
    struct udphdr *udp;
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = at;
        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
            return XDP_PASS;
        if (ip->frag_off & bpf_htons(FRAGMENT))
            return XDP_PASS;
        local.ip[10] = local.ip[11] = 0xff;
        __builtin_memcpy(local.ip + 12, &ip->daddr, 4);
        udp = (struct udphdr *)(ip + 1);
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = at;
        if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
            return XDP_PASS;
        __builtin_memcpy(local.ip, &ip->daddr, 16);
        udp = (struct udphdr *)(ip + 1);
    } else {
        return XDP_PASS;
    }
    if ((void *)(udp + 1) > end)
        return XDP_PASS;
    local.port = udp->dest;
    if (!bpf_map_lookup_elem(&open, &local))
        return XDP_PASS;
    // A queue without a socket goes the kernel's way, too.
    return bpf_redirect_map(&xsks, context->rx_queue_index, XDP_PASS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
