package contract

import "strings"

// Lines returns the lines of one of nitro-cli's files, [CmdPath] and [EnvPath]. Like C strings, they end at a
// NUL byte.
func Lines(s string) []string {
	if s == "" {
		return nil
	}
	all := make([]string, 0, strings.Count(s, "\n")+1)
	for s != "" {
		var line string
		line, s, _ = strings.Cut(s, "\n")
		line, _, _ = strings.Cut(line, "\x00")
		all = append(all, line)
	}
	return all
}
