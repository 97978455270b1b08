package cli

func (w *watcher) plot(title string) []byte { return nil }
