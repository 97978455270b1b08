Version=1
Cmd=/hello
