package kernel

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// DefaultSeries is the series of Linux that the fragments, patches and rules of hardening are written for.
const DefaultSeries = "6.12"

// changes lists the options of fragments and hardening that later series renamed, split or dropped, by the
// first series that neb builds with the change. The lines replace the option; without any it is dropped.
var changes = []struct {
	since   string
	options map[string][]string
}{
	{"7.3", map[string][]string{
		// Renamed, or split in two.
		"CONFIG_PROC_SYSCTL": {"CONFIG_SYSCTL=y"},
		"CONFIG_RANDOM_KMALLOC_CACHES": {
			"CONFIG_KMALLOC_PARTITION_CACHES=y", "CONFIG_KMALLOC_PARTITION_RANDOM=y"},
		"CONFIG_HARDENED_USERCOPY": {"CONFIG_HARDENED_USERCOPY=y", "CONFIG_HARDENED_USERCOPY_DEFAULT_ON=y"},
		"CONFIG_CRYPTO_CRC32C":     {"CONFIG_CRYPTO_CRC32C=y", "CONFIG_CRC_OPTIMIZATIONS=y"},
		"CONFIG_NUMA_BALANCING":    {"CONFIG_NUMA_BALANCING=y", "CONFIG_NUMA_MIGRATION=y"},
		"CONFIG_IP_NF_IPTABLES": {
			"CONFIG_IP_NF_IPTABLES=y", "CONFIG_IP_NF_IPTABLES_LEGACY=y", "CONFIG_NETFILTER_XTABLES_LEGACY=y"},
		"CONFIG_IP6_NF_IPTABLES": {"CONFIG_IP6_NF_IPTABLES=y", "CONFIG_IP6_NF_IPTABLES_LEGACY=y"},
		// Processors that can preempt lazily have no other model for servers any more.
		"CONFIG_PREEMPT_NONE": {"CONFIG_PREEMPT_LAZY=y"},
		// Tests are off unless CRYPTO_SELFTESTS asks for them.
		"CONFIG_CRYPTO_MANAGER_DISABLE_TESTS": nil,
		// Sheaves have replaced the lists of partly free slabs.
		"CONFIG_SLUB_CPU_PARTIAL": nil,
		// Always on.
		"CONFIG_ARM64_PAN": nil, "CONFIG_RODATA_FULL_DEFAULT_ENABLED": nil,
		"CONFIG_ARM64_LSE_ATOMICS": nil, "CONFIG_ARM64_USE_LSE_ATOMICS": nil,
		// The library behind the generic option chooses the processor's instructions itself.
		"CONFIG_CRYPTO_GHASH_CLMUL_NI_INTEL": nil, "CONFIG_CRYPTO_CRC32C_INTEL": nil,
		"CONFIG_CRYPTO_SHA256_SSSE3": nil, "CONFIG_CRYPTO_SHA512_SSSE3": nil,
		"CONFIG_CRYPTO_SHA2_ARM64_CE": nil, "CONFIG_CRYPTO_SHA512_ARM64_CE": nil,
	}},
}

// changed reports whether a series renamed, split or dropped an option of [DefaultSeries], and returns the
// lines of a fragment that replace it.
func changed(series, option string) (lines []string, yes bool) {
	for _, c := range changes {
		if now, ok := c.options[option]; ok && compareSeries(series, c.since) >= 0 {
			lines, yes = now, true
		}
	}
	return lines, yes
}

// compareSeries orders series, as "6.12" and "7.3", by their numbers.
func compareSeries(a, b string) int {
	var x, y [2]int
	fmt.Sscanf(a, "%d.%d", &x[0], &x[1])
	fmt.Sscanf(b, "%d.%d", &y[0], &y[1])
	return cmp.Or(x[0]-y[0], x[1]-y[1])
}

// Adapt returns neb's fragments for a series, such as "7.3". Lines of options that the series changed become
// empty, so that errors name the right lines, and what replaces them is in an additional fragment, the last.
func Adapt(fragments []Fragment, series string) []Fragment {
	var adapted []Fragment
	var extra strings.Builder
	for _, f := range fragments {
		lines := strings.Split(f.Text, "\n")
		for i, line := range lines {
			o, _ := parseLine(line)
			if now, yes := changed(series, o.Name); yes {
				lines[i] = ""
				for _, l := range now {
					fmt.Fprintln(&extra, l)
				}
			}
		}
		adapted = append(adapted, Fragment{Name: f.Name, Text: strings.Join(lines, "\n")})
	}
	if extra.Len() > 0 {
		adapted = append(adapted, Fragment{Name: "series-" + series + ".config",
			Text: "# What replaces options of " + DefaultSeries + ": see kernel/series.go.\n" +
				extra.String()})
	}
	return adapted
}

var configSeries = regexp.MustCompile(`(?m)^# Linux/\S+ (\d+\.\d+)\.\S+ Kernel Configuration$`)

// SeriesOf returns the series that a final configuration names, and [DefaultSeries] for one that names none.
func SeriesOf(final []byte) string {
	if m := configSeries.FindSubmatch(final); m != nil {
		return string(m[1])
	}
	return DefaultSeries
}
