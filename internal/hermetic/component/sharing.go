package component

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// Sharing takes outputs from remotes instead of building them, and pushes those that were built.
type Sharing struct {
	Remotes []*remote.Remote
	Keys    *trust.Keys   // of those whose statements are believed
	Require int           // how many of them must state the same files; at least 1
	Signer  crypto.Signer // signs what was built and pushes it to all remotes; nil: push nothing
	NoBuild bool          // fail instead of building
	Wait    bool          // if another builder has claimed an output, wait for it; needs Signer
}

// Statement is a signed statement about an output, and who signed it.
type Statement struct {
	Remote  string
	Output  trust.Output
	Keys    []trust.Key // the trusted keys that signed it; none: Problem says why
	Problem error
}

// statements returns all statements of all remotes about a job, and the errors of remotes that do not answer.
func (s *Sharing) statements(ctx context.Context, j job) (list []Statement, failed []error) {
	seen := map[string]bool{}
	for _, r := range s.Remotes {
		envelopes, err := r.Statements(ctx, j.key())
		if err != nil {
			failed = append(failed, err)
		}
		for _, e := range envelopes {
			if seen[string(e)] {
				continue
			}
			seen[string(e)] = true
			st := Statement{Remote: r.String()}
			st.Output, st.Keys, st.Problem = s.Keys.Verify(e, time.Now())
			if st.Problem == nil {
				st.Problem = j.stated(st.Output)
			}
			list = append(list, st)
		}
	}
	return list, failed
}

// stated checks that a statement is about the job's output.
func (j job) stated(o trust.Output) error {
	var names []string
	for _, f := range o.Files {
		names = append(names, f.Name)
	}
	switch want := Files(j.name, j.arch); {
	case o.Key != j.key():
		return fmt.Errorf("statement is about %q, expected %s", o.Key, j.key())
	case !slices.Equal(names, want):
		return fmt.Errorf("statement is about the files %q, expected %q", names, want)
	case sandbox.Mode(o.Isolation).Known():
		return nil
	}
	return fmt.Errorf("statement has the isolation %q, expected a mode of neb's sandbox", o.Isolation)
}

// agreed returns the output that enough trusted keys state. They must not disagree.
func (s *Sharing) agreed(list []Statement) (trust.Output, error) {
	var chosen trust.Output
	var signers, problems []string
	for _, st := range list {
		if st.Problem != nil {
			problems = append(problems, st.Problem.Error())
			continue
		}
		if len(signers) > 0 && !slices.Equal(st.Output.Files, chosen.Files) {
			return chosen, fmt.Errorf("trusted keys disagree: %s and %s state different files; "+
				"see 'neb trust report'", signers[0], st.Keys[0].Name)
		}
		chosen = st.Output
		for _, k := range st.Keys {
			if !slices.Contains(signers, k.Name) {
				signers = append(signers, k.Name)
			}
		}
	}
	if need := max(s.Require, 1); len(signers) < need {
		err := fmt.Errorf("%d trusted keys state its files, %d are required", len(signers), need)
		if len(problems) > 0 {
			slices.Sort(problems)
			err = fmt.Errorf("%w (%s)", err, strings.Join(slices.Compact(problems), "; "))
		}
		return chosen, err
	}
	return chosen, nil
}

// take writes the files of a job to dir, from a remote. The error says why they must be built.
func (s *Sharing) take(ctx context.Context, j job, dir string) (sandbox.Mode, error) {
	list, failed := s.statements(ctx, j)
	switch {
	case len(list) == 0 && len(failed) > 0:
		return "", errors.Join(failed...)
	case len(list) == 0:
		return "", remote.ErrNotFound
	}
	o, err := s.agreed(list)
	if err != nil {
		return "", err
	}
	for _, r := range s.Remotes {
		err := r.Fetch(ctx, j.key(), o.Files, dir)
		if err == nil {
			return sandbox.Mode(o.Isolation), nil
		}
		failed = append(failed, err)
	}
	return "", errors.Join(failed...)
}

// push signs the output of a job in dir and pushes it to all remotes. A remote that has a statement of the
// same files by the same key gets no other one.
func (s *Sharing) push(ctx context.Context, j job, rec Record, dir string) error {
	statement, files, err := rec.sign(ctx, j.key(), s.Signer)
	if err != nil {
		return err
	}
	own := new(trust.Keys)
	if _, err := own.Trust("own", trust.Builds, s.Signer.Public(), nil); err != nil {
		return err
	}
	for _, r := range s.Remotes {
		before, _ := r.Statements(ctx, j.key()) // those of others that cannot be read are not ours
		for _, e := range before {
			if o, _, err := own.Verify(e, time.Now()); err == nil && slices.Equal(o.Files, files) {
				statement = e
			}
		}
		if err := r.Push(ctx, j.key(), files, dir, statement); err != nil {
			return err
		}
	}
	return nil
}

// sign returns a signed statement about the output with a key.
func (r Record) sign(ctx context.Context, key string, signer crypto.Signer) ([]byte, []trust.File, error) {
	manifest, err := remote.Subject(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	o := trust.Output{Key: key, Manifest: manifest.Digest.Encoded(), Component: r.Component, Arch: r.Arch,
		Host: Host(), Isolation: string(r.Isolation), Time: time.Now()}
	for _, f := range r.Files {
		o.Files = append(o.Files, trust.File{Name: f.Name, SHA256: f.SHA256})
	}
	for _, in := range r.Inputs {
		o.Inputs = append(o.Inputs, trust.Input{Name: in.Name, Version: in.Version, SHA256: in.SHA256})
	}
	statement, err := o.Sign(signer)
	return statement, o.Files, err
}

// shared writes a job to dir: taken from a remote, or built and pushed.
func (b *Builder) shared(ctx context.Context, j job, dir string) error {
	s := b.Sharing
	if s == nil || len(s.Remotes) == 0 || b.Offline {
		_, err := b.make(ctx, j, j.key(), dir)
		return err
	}
	var mode sandbox.Mode
	said := false
	taken := func() (bool, error) {
		var err error
		if mode, err = s.take(ctx, j, dir); err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if s.NoBuild {
			return false, fmt.Errorf("%s: remote: %w", j.title(), err)
		}
		if !said {
			said = true
			b.note(j, "remote: %v", err)
		}
		return false, nil
	}
	release := func() {}
	ok, err := taken()
	if !ok && err == nil && s.Wait && s.Signer != nil {
		release, err = s.Remotes[0].Claim(ctx, j.key(), taken)
		ok = err == nil && release == nil
	}
	if err != nil {
		return err
	}
	if ok {
		rec, err := newRecord(ctx, j, mode, dir)
		if err != nil {
			return err
		}
		b.note(j, "taken from a remote, built in isolation: %s", mode)
		return rec.write(filepath.Join(dir, recordName))
	}
	defer release()
	rec, err := b.make(ctx, j, j.key(), dir)
	if err != nil || s.Signer == nil {
		return err
	}
	if err := s.push(ctx, j, rec, dir); err != nil {
		b.note(j, "not shared: %v", err) // the build itself succeeded
	}
	return nil
}

func (b *Builder) note(j job, format string, args ...any) {
	b.Progress.Send(progress.Event{Stage: j.title(), Note: j.title() + ": " + fmt.Sprintf(format, args...)})
}

// Push signs outputs that the store has and pushes them to all remotes. It fails if the store lacks one.
func (b *Builder) Push(ctx context.Context, arch string, names ...string) error {
	return b.each(ctx, arch, names, func(j job, o Output) error {
		if err := b.Sharing.push(ctx, j, o.Record, o.Dir); err != nil {
			return err
		}
		b.note(j, "pushed")
		return nil
	})
}

// State signs statements about outputs that were built and pushes them to all remotes.
func (b *Builder) State(ctx context.Context, outputs []Output) error {
	for _, o := range outputs {
		key := job{name: o.Component, arch: o.Arch, inputs: o.Inputs}.key()
		statement, _, err := o.sign(ctx, key, b.Sharing.Signer)
		if err != nil {
			return err
		}
		for _, r := range b.Sharing.Remotes {
			if err := r.State(ctx, key, statement); err != nil {
				return err
			}
		}
	}
	return nil
}

// each calls do with the stored output of each named component.
func (b *Builder) each(ctx context.Context, arch string, names []string, do func(job, Output) error) error {
	jobs, err := b.plan(ctx, arch, names)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !b.Store.Has(j.key()) {
			return fmt.Errorf("%s: not in the store: build it first", j.title())
		}
		o, err := b.build(ctx, j)
		if err == nil {
			err = do(j, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Report returns the statements about the named components for an architecture, by component, and the errors
// of remotes that do not answer.
func (b *Builder) Report(ctx context.Context, arch string, names ...string) (map[string][]Statement, error) {
	jobs, err := b.plan(ctx, arch, names)
	if err != nil {
		return nil, err
	}
	report := map[string][]Statement{}
	var failed []error
	for _, j := range jobs {
		list, errs := b.Sharing.statements(ctx, j)
		report[j.name] = list
		failed = append(failed, errs...)
	}
	return report, errors.Join(failed...)
}
