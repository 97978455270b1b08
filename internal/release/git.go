package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// git runs git in a directory and returns its output.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// headOf returns the commit of the checkout in source, or "" if source is not a checkout.
func headOf(ctx context.Context, source string) (string, error) {
	if _, err := os.Stat(filepath.Join(source, ".git")); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return git(ctx, source, "rev-parse", "HEAD")
}

// checkCommitted checks that the commit of a checkout has everything in it: no file is changed or untracked,
// and git ignores none of the compiled files, which git status would not show.
func checkCommitted(ctx context.Context, source string, compiled []string) error {
	changed, err := git(ctx, source, "status", "--porcelain", "--untracked-files=all")
	if err != nil {
		return err
	}
	if changed != "" {
		return fmt.Errorf("%s has uncommitted changes or files:\n%s\na release names its commit: "+
			"commit or remove them",
			source, changed)
	}
	list, err := git(ctx, source, "ls-files", "-z")
	if err != nil {
		return err
	}
	tracked := map[string]bool{}
	for name := range strings.SplitSeq(list, "\x00") {
		tracked[name] = true
	}
	for _, name := range compiled {
		if !tracked[name] {
			return fmt.Errorf("%s is compiled, and git ignores it: "+
				"a release names its commit, which must have "+
				"every source file", filepath.Join(source, name))
		}
	}
	return nil
}
