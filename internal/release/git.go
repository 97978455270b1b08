package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// git runs git in a directory and returns its output. Variables do not lead it to another repository, as
// those of a hook would, and no program that the repository names for finding changes is run.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir, "-c", "core.fsmonitor=false"},
		args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
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
// and git ignores no file that Go would compile, which git status would not show.
func checkCommitted(ctx context.Context, source string) error {
	changed, err := git(ctx, source, "status", "--porcelain", "--untracked-files=all")
	if err != nil {
		return err
	}
	ignored, err := git(ctx, source, "ls-files", "--others", "--", "*.go", "*.s", "*.h")
	if err != nil {
		return err
	}
	files, err := git(ctx, source, "ls-files", "-v")
	if err != nil {
		return err
	}
	for line := range strings.Lines(files) {
		if line[0] != 'H' { // assume-unchanged (in lower case) or skip-worktree: status does not look at it
			changed += "\n" + strings.TrimSpace(line)
		}
	}
	if changed != "" || ignored != "" {
		return fmt.Errorf("%s has uncommitted changes or files, or source files that git ignores:\n%s\n"+
			"a release names its commit: commit or remove them", source,
			strings.TrimSpace(changed+"\n"+ignored))
	}
	return nil
}
