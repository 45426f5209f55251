# The folder in which the commands of train.jsonl and valid.jsonl are run.
mkdir -p logs/old data/2023 photos src/lib docs config tmp/empty bin backup music
printf '%s\n' '2024-05-01 08:00 INFO start' '2024-05-01 08:02 ERROR disk full' '2024-05-01 08:05 WARN slow query' '2024-05-02 09:00 ERROR timeout' '2024-05-02 09:01 INFO retry' > logs/app.log
printf '%s\n' '10.0.0.1 GET /index 200' '10.0.0.2 GET /login 404' '10.0.0.1 POST /login 200' '10.0.0.3 GET /index 500' '10.0.0.1 GET /about 404' > logs/web.log
printf '%s\n' '2024-04-30 23:59 ERROR old crash' '2024-04-30 23:59 INFO stop' > logs/old/app.1.log
printf '%s\n' 'region,product,units,price' 'north,tea,10,2.50' 'south,coffee,4,3.00' 'north,coffee,7,3.00' 'east,tea,1,2.50' > data/sales.csv
printf '%s\n' 'name,city,age' 'Ana,Lyon,31' 'Bob,Paris,24' 'Cleo,Lyon,45' > data/people.csv
printf '%s\n' 'day,celsius' 'mon,3' 'tue,-1' 'wed,5' > data/2023/temps.csv
: > data/empty.csv
for name in 'beach.jpeg' 'my cat.jpeg' 'alps.JPG' 'icon.png'; do printf 'x' > "photos/$name"; done
printf '%s\n' 'import util' '# TODO read the settings' 'print(util.add(1, 2))' > src/main.py
printf '%s\n' 'def add(a, b):' '    return a + b' '' '# TODO test add' > src/util.py
printf '%s\n' '#include "net.h"' 'int port = 8080; /* TODO */' > src/lib/net.c
printf '%s\n' 'extern int port;' > src/lib/net.h
printf '%s\n' '# Guide' '' 'Run it.' '## Setup' 'Install it.' > docs/guide.md
printf '%s\n' '# Notes' 'Call Bob' > docs/notes.md
printf '%s\n' 'alpha' '' 'beta' '' 'gamma' > docs/list.txt
printf '%s\n' 'host=localhost' 'port=5432' 'debug=true' '# end' > config/db.ini
printf '%s\n' 'theme=dark' 'port=8000' > config/app.ini
printf '%s\n' 'one' > tmp/a.tmp
printf '%s\n' 'two' > tmp/b.tmp
printf '%s\n' 'stay' > tmp/keep.txt
printf '%s\n' '#!/bin/sh' 'echo run' > bin/run.sh
printf '%s\n' '#!/bin/sh' 'echo setup' > bin/setup.sh
chmod 755 bin/run.sh
chmod 644 bin/setup.sh
printf '%s\n' 'pear' 'apple' 'fig' 'apple' 'plum' 'fig' 'apple' > words.txt
printf '%s\n' 12 7 30 7 101 > numbers.txt
printf '%s\n' 'buy milk' 'call mum' 'fix bike' > todo.txt
printf '%s\n' 'root:0:/bin/sh' 'ana:1000:/bin/bash' 'bob:1001:/bin/zsh' > users.txt
printf '%s\n' 'first line' 'second line' > 'my file.txt'
printf '%s\n' 'track one' > music/01.txt
printf '%s\n' 'track two' > music/02.txt
chmod 664 users.txt
