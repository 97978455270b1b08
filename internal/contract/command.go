package contract

import "strings"

// Paths in which a command is looked for.
const (
	// ReferencePath comes before the image's PATH in nitro-cli's mode, and is the PATH of an image without an
	// environment.
	ReferencePath = "/sbin:/usr/sbin:/bin:/usr/bin"
	// DockerPath is the PATH of an image without one.
	DockerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// LookUpEnv returns the last value of a variable, which counts if it is set twice.
func LookUpEnv(env []string, name string) (string, bool) {
	for i := len(env) - 1; i >= 0; i-- {
		if n, v, ok := strings.Cut(env[i], "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}

// Candidates returns the files that a command may mean, in the order of init's search; reference is
// nitro-cli's mode. A name with a slash is relative to the working directory.
func Candidates(command string, env []string, reference bool) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	path, ok := LookUpEnv(env, "PATH")
	switch {
	case reference:
		path = strings.TrimSuffix(ReferencePath+":"+path, ":")
	case !ok:
		path = DockerPath
	}
	var all []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		all = append(all, strings.TrimSuffix(dir, "/")+"/"+command)
	}
	return all
}
