CREATE TABLE albums(id INTEGER PRIMARY KEY, title TEXT, artist TEXT, year INTEGER);
CREATE TABLE tracks(id INTEGER PRIMARY KEY, album_id INTEGER, title TEXT, seconds INTEGER, plays INTEGER);
INSERT INTO albums VALUES
  (1,'Blue','Joni',1971),
  (2,'Kind','Miles',1959),
  (3,'Low','Bowie',1977),
  (4,'Heroes','Bowie',1977),
  (5,'Empty','Nobody',2001);
INSERT INTO tracks VALUES
  (1,1,'Carey',182,40),
  (2,1,'River',240,95),
  (3,2,'So What',562,70),
  (4,3,'Warszawa',383,12),
  (5,4,'Heroes',371,210),
  (6,4,'V-2',190,3);
